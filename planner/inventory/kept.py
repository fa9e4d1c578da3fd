"""Which nodes a service may use: `nodes` and `avoid` of a service, by name, by range, or with * for any text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Protocol

from llmfleet.planner.inventory.ranges import RANGE, expand
from llmfleet.planner.inventory.shapes import Shape, UnreadableError, shown


class Kept(Protocol):
    """A service."""

    @property
    def nodes(self) -> tuple[str, ...]: ...
    @property
    def avoid(self) -> tuple[str, ...]: ...


def _checked(text: str) -> str:
    if "*" in text and "[" in text:
        raise UnreadableError(f"{shown(text)} has a range and a *; use one of them.")
    expand(text)
    return text


NodePattern = Annotated[
    str,
    Shape(
        "the name of a node, a range such as a800-[0-3], or a800-* for all that start so",
        pattern=rf"^([a-z0-9.*-]|{RANGE})+$",
        examples=("head", "a800-[0-1]", "a800-*"),
        check=_checked,
    ),
]


def meant(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether one of the patterns means the node of a name."""
    members = {member for pattern in patterns for member in expand(pattern)}
    stars = [re.compile(".*".join(map(re.escape, m.split("*")))) for m in members if "*" in m]
    return lambda name: name in members or any(star.fullmatch(name) for star in stars)


def kept_off(service: Kept, names: Iterable[str]) -> frozenset[str]:
    """The nodes that a service must not use."""
    if not service.nodes and not service.avoid:
        return frozenset()
    may, must_not = meant(service.nodes or ("*",)), meant(service.avoid)
    return frozenset(name for name in names if must_not(name) or not may(name))


def rule(service: Kept) -> str:
    """As the inventory has it."""
    keys = (("nodes", service.nodes), ("avoid", service.avoid))
    return ", ".join(f"{key}: [{', '.join(patterns)}]" for key, patterns in keys if patterns)
