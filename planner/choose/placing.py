"""From counts per node class to nodes and GPU indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.choose.packing import islands
from llmfleet.planner.errors import PlanError


@dataclass(frozen=True, slots=True)
class Placed:
    """One instance where it will run, its nodes in the order of its stages. The first node answers HTTP."""

    candidate: Candidate
    nodes: tuple[str, ...]
    gpus: Mapping[str, tuple[int, ...]]


class Room:
    """Free GPUs of the first `used` nodes of a class, by island, and what is left of GPUs that are shared."""

    def __init__(self, node_class: NodeClass, used: int) -> None:
        self._island = node_class.island
        self._nodes = node_class.nodes[:used]
        self._free = {node: islands(node_class.free, node_class.island) for node in node_class.nodes}
        self._shared: dict[str, dict[int, float]] = {node: {} for node in self._nodes}
        self._next = 0

    def take(self, slot: float, span: int, *, spread: bool) -> dict[str, tuple[int, ...]] | None:
        """`slot` GPUs on each of `span` nodes: in turn over the nodes, or filling one after the other."""
        start = self._next if spread else 0
        chosen: dict[str, tuple[int, ...]] = {}
        for step in range(len(self._nodes)):
            place = (start + step) % len(self._nodes)
            node = self._nodes[place]
            taken = self._part(node, slot) if slot < 1 else self._whole(node, int(slot))
            if taken:
                chosen[node] = taken
                self._next = (place + 1) % len(self._nodes)
            if len(chosen) == span:
                return chosen
        return None

    def left(self) -> dict[str, tuple[int, ...]]:
        return {node: tuple(i for group in groups for i in group) for node, groups in self._free.items() if any(groups)}

    def _whole(self, node: str, slot: int) -> tuple[int, ...] | None:
        groups = self._free[node]
        fitting = min((g for g in groups if len(g) >= slot), key=len, default=None)
        if fitting is not None:
            taken = tuple(fitting[:slot])
            del fitting[:slot]
            return taken
        if slot > self._island and sum(map(len, groups)) >= slot:
            return _across(groups, slot)
        return None

    def _part(self, node: str, slot: float) -> tuple[int, ...] | None:
        """Of a GPU that is shared already, else of a new one."""
        shared = self._shared[node]
        gpu = next((g for g, rest in shared.items() if rest >= slot), None)
        if gpu is None:
            fresh = self._whole(node, 1)
            if fresh is None:
                return None
            (gpu,) = fresh
        shared[gpu] = shared.get(gpu, 1.0) - slot
        return (gpu,)


def place(
    counts: Mapping[Candidate, int], classes: Iterable[NodeClass], used: Mapping[str, int], *, spread: bool
) -> tuple[list[Placed], dict[str, tuple[int, ...]]]:
    """Instances in the order of the file's nodes, largest slots first, and the GPUs that are left.

    `used`: nodes in use, by class; all where it is left out. With `spread` the instances of a service go to different
    nodes first, so that losing one node loses the fewest.
    """
    classes = tuple(classes)
    for evenly in (spread, False):  # odd sizes may fit only side by side
        rooms = {c.name: Room(c, used.get(c.name, len(c.nodes))) for c in classes}
        placed = _placed(rooms, counts, spread=evenly)
        if placed is not None:
            return placed, {node: gpus for room in rooms.values() for node, gpus in room.left().items()}
    raise PlanError("no room for all that was chosen", hint="placement: fixes it by hand")


def _placed(rooms: Mapping[str, Room], counts: Mapping[Candidate, int], *, spread: bool) -> list[Placed] | None:
    made = []
    for c in sorted(counts, key=lambda c: (-max(t.slot for t in c.takes), -c.span)):
        for _ in range(counts[c]):
            gpus: dict[str, tuple[int, ...]] = {}
            for t in c.takes:
                taken = rooms[t.node_class.name].take(t.slot, t.nodes, spread=spread)
                if taken is None:
                    return None
                gpus |= taken
            made.append(Placed(c, tuple(gpus), gpus))
    return made


def _across(groups: list[list[int]], slot: int) -> tuple[int, ...]:
    taken: list[int] = []
    for group in groups:
        part = group[: slot - len(taken)]
        taken += part
        del group[: len(part)]
    return tuple(taken)
