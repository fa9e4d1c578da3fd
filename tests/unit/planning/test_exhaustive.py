"""On small fleets the choice is as good as the best of all choices that there are, objective by objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import inventory, models

from llmfleet.planner.candidates.build import options_of
from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand, demand_of
from llmfleet.planner.candidates.node_classes import NodeClass, node_classes
from llmfleet.planner.catalog import catalog
from llmfleet.planner.choose.columns import BREAKS, FULL
from llmfleet.planner.choose.fleet import choose
from llmfleet.planner.choose.rates import inside, spare_capacities
from llmfleet.planner.inventory.model import Inventory, Policy

GPUS = ("A800-80G", "L4", "RTX-4090", "V100-32G")
SERVICES = (
    "{name: chat, model: Qwen/Qwen2.5-7B-Instruct, slo: {ttft: 2s, tpot: TPOT}, "
    "traffic: {rate: RATE, input: {mean: 1500}, output: {mean: 200}}}",
    "{name: big, model: Qwen/Qwen2.5-14B-Instruct, slo: {ttft: 3s, tpot: TPOT}, "
    "traffic: {rate: RATE, input: {mean: 3000}, output: {mean: 150}}}",
    "{name: embed, model: BAAI/bge-m3, task: embed, slo: {ttft: 1s}, traffic: {rate: RATE, input: {mean: 400}}}",
)
RULES = ("", "", ", avoid: [k0-0]", ', nodes: ["k0-*"]')  # what the inventory allows a service
MOST = 3_000  # combinations that are all looked at


@st.composite
def small_fleets(draw: st.DrawFn) -> Inventory:
    lines = []
    for k, gpu in enumerate(draw(st.lists(st.sampled_from(GPUS), min_size=1, max_size=2, unique=True))):
        price = draw(st.sampled_from((1, 2.5, 4)))
        for n in range(draw(st.integers(1, 2))):
            count = draw(st.sampled_from((1, 2, 4)))
            lines.append(f"  - {{name: k{k}-{n}, host: 10.0.{k}.{n}, gpus: {count} x {gpu}, price: {price}}}")
    chosen = draw(st.sets(st.sampled_from(range(len(SERVICES))), min_size=1, max_size=2))
    rate, tpot = draw(st.sampled_from(("0.5", "3", "20", "200"))), draw(st.sampled_from(("30ms", "60ms", "150ms")))
    rules = [draw(st.sampled_from(RULES)) if len(lines) > 1 else "" for _ in chosen]
    services = "\n".join(
        f"  - {SERVICES[i].replace('RATE', rate).replace('TPOT', tpot)[:-1]}{rule}}}"
        for i, rule in zip(sorted(chosen), rules, strict=True)
    )
    objective, redundancy = draw(st.sampled_from(("goodput", "cost", "min-nodes"))), draw(st.sampled_from((0, 0, 1)))
    policy = f"policy: {{objective: {objective}, redundancy: {redundancy}}}"
    return inventory("cluster: c\nnodes:\n" + "\n".join(lines) + f"\nservices:\n{services}\n{policy}\n")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(small_fleets())
def test_no_other_choice_is_better(fleet: Inventory) -> None:
    known, classes = models(fleet), node_classes(fleet, catalog(), {})
    demands = [demand_of(s, known[s.name]) for s in fleet.services]
    candidates = [c for d in demands for c in options_of(d, classes, catalog()).candidates]
    choice = choose(demands, candidates, classes, fleet.policy, frozenset())
    assume(candidates and all(c.span == 1 for c in candidates))
    able = [d for d in demands if any(c.demand is d for c in candidates)]
    assert all(allowed(c) for c in choice.counts)
    ours = worth(choice.counts, choice.nodes, demands, classes, fleet.policy, able)
    best: tuple[float, ...] | None = None
    for counts, nodes in all_choices(candidates, classes, fleet.policy):
        other = worth(counts, nodes, demands, classes, fleet.policy, able)
        best = better(best, other) if best else other
    assume(best is not None)
    assert ours == pytest.approx(best, rel=1e-3, abs=1e-3)


def allowed(c: Candidate) -> bool:
    nodes, service = c.node_class.nodes, c.demand.service
    return all(n.startswith("k0-") for n in nodes) if service.nodes else not service.avoid or "k0-0" not in nodes


def better(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    """The one that is ahead in the first objective that tells them apart."""
    for x, y in zip(a, b, strict=True):
        if abs(x - y) > 1e-5 * max(1.0, abs(x)):
            return a if x > y else b
    return a


def all_choices(
    candidates: Sequence[Candidate], classes: Sequence[NodeClass], policy: Policy
) -> Iterator[tuple[Mapping[Candidate, int], Mapping[str, int]]]:
    """Every number of instances of every candidate that fits, with every number of nodes in use."""
    ranges = [range(len(c.node_class.nodes) * (len(c.node_class.free) // c.slot) + 1) for c in candidates]
    total = 1
    for r in ranges:
        total *= len(r)
    for numbers in product(*ranges) if total <= MOST else ():
        counts = dict(zip(candidates, numbers, strict=True))
        used = [[n for n in range(len(k.nodes) + 1) if fits(counts, k, n)] for k in classes]
        if policy.objective == "goodput":
            used = [[n for n in there if n == len(k.nodes)] for there, k in zip(used, classes, strict=True)]
        for nodes in product(*used):
            yield counts, {k.name: n for k, n in zip(classes, nodes, strict=True)}


def fits(counts: Mapping[Candidate, int], node_class: NodeClass, nodes: int) -> bool:
    """Slots are powers of two here and of no more than a node: the largest first leave no gaps."""
    free = [len(node_class.free)] * nodes
    slots = sorted((c.slot for c, n in counts.items() if c.node_class is node_class for _ in range(n)), reverse=True)
    for slot in slots:
        room = next((i for i, left in enumerate(free) if left >= slot), None)
        if room is None:
            return False
        free[room] -= slot
    return True


def worth(
    counts: Mapping[Candidate, int], nodes: Mapping[str, int], demands: Sequence[Demand], classes: Sequence[NodeClass],
    policy: Policy, able: Sequence[Demand],
) -> tuple[float, ...]:  # fmt: skip
    """The objectives in their order, the larger the better. Every service has one kind of request here."""
    usable = 1 - policy.headroom
    running = sum(any(n for c, n in counts.items() if c.demand is d) for d in demands)
    served = sum(min(1.0, usable * taken(counts, d) / d.rate) for d in demands)
    kept = 0.0
    if policy.redundancy:
        kept = sum(min(min(1.0, left_after(counts, nodes, d, k) / d.rate) for k in classes) for d in demands)
    at_all = sum(min(1.0, usable * at_best(counts, d) / d.rate) for d in demands)
    if policy.objective != "goodput":
        prices = {k.name: (k.price or 0.0) if policy.objective == "cost" else 1.0 for k in classes}
        return running, served, kept, at_all, -sum(prices[name] * n for name, n in nodes.items())
    return running, served, kept, at_all, -sum(load(spare(counts, d)) for d in able)


def load(scale: float) -> float:
    """Demand over capacity, straight between the breaks."""
    for low, high in pairwise(BREAKS):
        if scale <= high:
            start, end = 1 / low if low else FULL, 1 / high
            return start + (end - start) * (scale - low) / (high - low)
    return 1 / BREAKS[-1]


def taken(counts: Mapping[Candidate, int], demand: Demand) -> float:
    able = inside(counts)
    return sum(n * able[c].get("all", 0.0) for c, n in counts.items() if c.demand is demand)


def at_best(counts: Mapping[Candidate, int], demand: Demand) -> float:
    return sum(n * c.ratings["all"].best_effort.rate for c, n in counts.items() if c.demand is demand)


def left_after(counts: Mapping[Candidate, int], nodes: Mapping[str, int], demand: Demand, lost: NodeClass) -> float:
    """With every candidate spread evenly over the class's nodes in use, as the placing does."""
    able, used = inside(counts), nodes[lost.name]
    return sum(
        (n - (-(-n // used) if used and c.node_class is lost else 0)) * able[c].get("all", 0.0)
        for c, n in counts.items()
        if c.demand is demand
    )


def spare(counts: Mapping[Candidate, int], demand: Demand) -> float:
    mine = [c for c in counts if c.demand is demand]
    able = spare_capacities([c for c in mine if not c.engine.exception] or mine)
    return sum(counts[c] * by.get("all", 0.0) for c, by in able.items()) / demand.rate
