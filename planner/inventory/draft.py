"""A file as the checks that look across its parts see it: ranges expanded, names known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from llmfleet.planner.inventory.model import Router, Runtime, Service
from llmfleet.planner.inventory.ranges import MOST_NODES, parse_range
from llmfleet.planner.inventory.salvage import Parts, child
from llmfleet.planner.inventory.shapes import NAME, Shape
from llmfleet.planner.inventory.source import Loc
from llmfleet.planner.inventory.written import NODE_NAMES, Entry, NodeEntry, expanded

KnownGpu = Callable[[str], tuple[bool, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Draft:
    """Nodes and services by their place in the file; `entries` are the nodes whose ranges agree.

    The names are those of all parts, also of parts that are not valid (those have no Entry, or no Service).
    They are None where not all can be read: then nobody can say that a name is unknown.
    """

    nodes: Mapping[int, NodeEntry]
    entries: tuple[Entry, ...]
    services: Mapping[int, Service]
    runtime: Runtime
    router: Router
    node_names: Mapping[str, Entry | None] | None
    service_names: Mapping[str, int] | None
    known_gpu: KnownGpu | None
    invalid: Set[Loc]

    def sound(self, *loc: str | int) -> bool:
        """Whether the value is the file's own, not a default in place of something invalid."""
        return loc not in self.invalid


def draft_of(parts: Parts, values: Any, invalid: Set[Loc], known_gpu: KnownGpu | None) -> Draft:
    """`values` are the whole file's as read, `parts` what is valid of them, `invalid` the places of errors."""
    entries = expanded(_agreeing(parts.nodes), parts.access, parts.runtime)
    return Draft(
        nodes=parts.nodes,
        entries=entries,
        services=parts.services,
        runtime=parts.runtime,
        router=parts.router,
        node_names=_node_names(child(values, "nodes"), entries),
        service_names=_service_names(child(values, "services")),
        known_gpu=known_gpu,
        invalid=invalid,
    )


def _agreeing(nodes: Mapping[int, NodeEntry]) -> dict[int, NodeEntry]:
    """Those with as many hosts and addresses as names; none if they are too many to write out."""
    counts = {i: [parse_range(text).count for text in _ranges(node)] for i, node in nodes.items()}
    if sum(names for names, *_ in counts.values()) > MOST_NODES:
        return {}
    return {i: node for i, node in nodes.items() if len(set(counts[i])) == 1}


def _ranges(node: NodeEntry) -> tuple[str, ...]:
    return (node.name, node.host, *((node.address,) if node.address else ()))


def _node_names(raw_nodes: Any, entries: tuple[Entry, ...]) -> dict[str, Entry | None] | None:
    if not isinstance(raw_nodes, list):
        return None
    names: dict[str, Entry | None] = {name: entry for entry in entries for name in entry.names}
    expanded_already = {entry.index for entry in entries}
    for raw in (raw for i, raw in enumerate(raw_nodes) if i not in expanded_already):
        written = _readable(NODE_NAMES, child(raw, "name"))
        if written is None or len(names) + parse_range(written).count > MOST_NODES:
            return None
        for name in parse_range(written):
            names.setdefault(name, None)
    return names


def _service_names(raw_services: Any) -> dict[str, int] | None:
    if not isinstance(raw_services, list):
        return None
    names: dict[str, int] = {}
    for i, raw in enumerate(raw_services):
        name = _readable(NAME, child(raw, "name"))
        if name is None:
            return None
        names.setdefault(name, i)
    return names


def _readable(shape: Shape, name: Any) -> str | None:
    try:
        return shape.parse(name) if isinstance(name, str) else None
    except ValueError:
        return None
