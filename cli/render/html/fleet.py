"""Every node with its GPUs as memory bars. Nodes that carry the same are one card, however many they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from llmfleet.cli.render.html.kinds import Kind
from llmfleet.cli.render.names import compressed
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.plan import Plan


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a GPU's memory, 0..1 of it. `kind` None: nobody's."""

    part: str
    gib: float
    size: float
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One GPU. `height` 0..1: by the memory it has, the root of it so that small ones are still seen."""

    index: int
    height: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring GPUs of a node that one instance works on, or that nobody does, for the reason given."""

    kinds: tuple[Kind, ...]
    bars: tuple[Bar, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Card:
    nodes: tuple[str, ...]
    gpus: str  # as the inventory says; empty for none
    gib: float
    blocks: tuple[Block, ...]
    head: bool

    @property
    def name(self) -> str:
        return compressed(self.nodes)


@dataclass(frozen=True, slots=True)
class Use:
    """What is on one GPU: `owners` are instances by number and stay together; `kinds` are theirs."""

    owners: tuple[str, ...]
    kinds: tuple[int, ...]
    reason: str


def node_cards(plan: Plan, inventory: Inventory, kinds: Sequence[Kind]) -> list[Card]:
    uses = _uses(plan, kinds)
    memory = _memory(plan, inventory, uses)
    largest = max(memory.values(), default=0.0) or 1.0
    groups: dict[object, list[Node]] = {}
    for node in inventory.nodes:
        groups.setdefault(_alike(node, uses, plan.head), []).append(node)
    cards = []
    for nodes in groups.values():
        first = nodes[0]
        gib = memory.get(first.gpus or "", 0.0)
        blocks = tuple(_blocks(first, uses, kinds, gib, sqrt(gib / largest)))
        cards.append(Card(tuple(n.name for n in nodes), first.gpus or "", gib, blocks, first.name == plan.head))
    return cards


def _uses(plan: Plan, kinds: Sequence[Kind]) -> Mapping[tuple[str, int], Use]:
    number = {i.id: kind.number for kind in kinds for i in kind.instances}
    uses: dict[tuple[str, int], Use] = {}
    for instance in plan.instances:
        for node, gpus in instance.gpus.items():
            for gpu in gpus:
                old = uses.get((node, gpu), Use((), (), ""))
                uses[node, gpu] = Use((*old.owners, instance.id), (*old.kinds, number[instance.id]), "")
    for unused in plan.unused:
        uses |= {(unused.node, gpu): Use((), (), unused.reason) for gpu in unused.gpus}
    return uses


def _memory(plan: Plan, inventory: Inventory, uses: Mapping[tuple[str, int], Use]) -> dict[str, float]:
    """GiB of a GPU by the text of `gpus`, from the budgets of what runs there; 0 where nothing does."""
    totals = {i.id: i.budget.total_gib / i.gpu_share for i in plan.instances}
    found: dict[str, float] = {}
    for node in inventory.nodes:
        if node.gpus and not found.get(node.gpus):
            count = parse_gpus(node.gpus).count
            owners = (owner for gpu in range(count) for owner in uses.get((node.name, gpu), NOBODY).owners)
            found[node.gpus] = max((totals[o] for o in owners), default=0.0)
    return found


NOBODY = Use((), (), "")


def _alike(node: Node, uses: Mapping[tuple[str, int], Use], head: str) -> object:
    """What a card shows, without the instances' names."""
    count = parse_gpus(node.gpus).count if node.gpus else 0
    there = [uses.get((node.name, gpu), NOBODY) for gpu in range(count)]
    order = {owners: i for i, owners in enumerate(dict.fromkeys(u.owners for u in there))}
    return (node.gpus, node.name == head, tuple((u.kinds, order[u.owners], u.reason) for u in there))


def _blocks(
    node: Node, uses: Mapping[tuple[str, int], Use], kinds: Sequence[Kind], gib: float, height: float
) -> Iterable[Block]:
    count = parse_gpus(node.gpus).count if node.gpus else 0
    together: dict[object, list[int]] = {}
    for gpu in range(count):
        use = uses.get((node.name, gpu), NOBODY)
        together.setdefault((use.owners, use.reason), []).append(gpu)
    for gpus in together.values():
        use = uses.get((node.name, gpus[0]), NOBODY)
        mine = tuple(kinds[k] for k in use.kinds)
        segments = tuple(_segments(mine, gib))
        yield Block(mine, tuple(Bar(gpu, max(height, 0.3), segments) for gpu in gpus), use.reason)


def _segments(kinds: Sequence[Kind], gib: float) -> Iterable[Segment]:
    """From the bottom up. Of several instances on a GPU each brings its own parts; what is free is left once."""
    if not kinds or not gib:
        return
    taken = 0.0
    for kind in kinds:
        for part, size in kind.memory:
            if part != "free" and size > 0:
                taken += size
                yield Segment(part, size, size / gib, kind)
    free = max(0.0, gib - taken)
    yield Segment("free", free, free / gib, None)
