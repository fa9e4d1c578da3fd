"""Ranges of nodes: `a800-[0-1]`, `n[01-12]`, `r[1-2]-n[0-1,4]`, and the hosts that go with them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmfleet.planner.inventory.shapes import UnreadableError, shown

RANGE = r"(\[[0-9][0-9, -]*\])"  # as a regular expression knows it
MOST_NODES = 20_000
_LONGEST = 4096

_PIECES = re.compile(r"\[([^\[\]]*)\]")
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Span:
    """The numbers first to last, both included, padded with zeros to a width."""

    first: int
    last: int
    width: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(self.width) for number in range(self.first, self.last + 1))


@dataclass(frozen=True, slots=True)
class Range:
    """A parsed pattern. `texts` stand before, between and after the groups. The last group counts fastest."""

    texts: tuple[str, ...]
    groups: tuple[tuple[Span, ...], ...]

    @property
    def count(self) -> int:
        return math.prod(sum(span.count for span in group) for group in self.groups)

    def __iter__(self) -> Iterator[str]:
        first, *rest = self.texts
        for numbers in itertools.product(*(itertools.chain(*group) for group in self.groups)):
            yield first + "".join(number + text for number, text in zip(numbers, rest, strict=True))


def parse_range(text: str) -> Range:
    """A pattern of at most MOST_NODES members. Raises UnreadableError, a ValueError, in words."""
    if len(text) > _LONGEST:
        raise UnreadableError(f"{shown(text)} is longer than {_LONGEST:,} characters.")
    pieces = _PIECES.split(text)
    texts, groups = tuple(pieces[::2]), tuple(pieces[1::2])
    if any(bracket in piece for piece in texts for bracket in "[]"):
        raise UnreadableError(f"the brackets of {shown(text)} do not pair; expected a range such as a800-[0-3].")
    parsed = Range(texts, tuple(tuple(_span(part.strip(), text) for part in group.split(",")) for group in groups))
    if parsed.count > MOST_NODES:
        raise UnreadableError(
            f"{shown(text)} stands for {_about(parsed.count)} nodes; at most {MOST_NODES:,} are allowed."
        )
    return parsed


def expand(text: str) -> tuple[str, ...]:
    """All members, in order; a text without brackets is its own only member."""
    return tuple(parse_range(text))


def _span(part: str, text: str) -> Span:
    match = _SPAN.fullmatch(part)
    if not match:
        raise UnreadableError(f'{shown(part)} in {shown(text)} is no range; expected numbers such as "0-3" or "0-3,8".')
    first, last = match[1], match[2] or match[1]
    if int(last) < int(first):
        raise UnreadableError(f"{shown(part)} in {shown(text)} ends before it starts.")
    padded = first.startswith("0") and len(first) > 1
    if padded and len(last) < len(first):
        raise UnreadableError(f"{shown(part)} in {shown(text)} is padded on one side only; write both ends alike.")
    return Span(int(first), int(last), len(first) if padded else 0)


def _about(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "far too many"
