"""The parts of a file that can be understood, so that one mistake does not hide those behind it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llmfleet.planner.inventory.model import Access, Router, Runtime, Service
from llmfleet.planner.inventory.source import Loc
from llmfleet.planner.inventory.written import InventoryFile, NodeEntry

Part = TypeVar("Part", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Parts:
    """Nodes and services by their place in the file."""

    nodes: Mapping[int, NodeEntry]
    services: Mapping[int, Service]
    access: Access
    runtime: Runtime
    router: Router


def parts_of(whole: InventoryFile) -> Parts:
    nodes, services = dict(enumerate(whole.nodes)), dict(enumerate(whole.services))
    return Parts(nodes, services, whole.access, whole.runtime, whole.router)


def salvage(values: Any, invalid: Set[Loc]) -> Parts:
    """What remains without the invalid keys. `invalid`: places of errors, cut to each of two and three steps."""
    return Parts(
        nodes=_sound_items(NodeEntry, values, "nodes", invalid),
        services=_sound_items(Service, values, "services", invalid),
        access=_sound(Access, child(values, "access"), ("access",), invalid) or Access(),
        runtime=_sound(Runtime, child(values, "runtime"), ("runtime",), invalid) or Runtime(),
        router=_sound(Router, child(values, "router"), ("router",), invalid) or Router(),
    )


def child(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, dict) else None


def _sound_items(model: type[Part], values: Any, key: str, invalid: Set[Loc]) -> dict[int, Part]:
    items = child(values, key)
    raw_parts = enumerate(items if isinstance(items, list) else [])
    parts = {i: _sound(model, raw, (key, i), invalid) for i, raw in raw_parts}
    return {i: part for i, part in parts.items() if part is not None}


def _sound(model: type[Part], raw: Any, loc: Loc, invalid: Set[Loc]) -> Part | None:
    """The part without its invalid keys; None where it cannot do without them."""
    if not isinstance(raw, dict):
        return None
    try:
        return model.model_validate({key: value for key, value in raw.items() if (*loc, key) not in invalid})
    except ValidationError:
        return None
