"""What holds for every plan, whatever the fleet."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import inventory, models

from llmfleet.planner.candidates.build import options_of
from llmfleet.planner.candidates.demand import demand_of
from llmfleet.planner.candidates.node_classes import node_classes, usable
from llmfleet.planner.catalog import catalog
from llmfleet.planner.choose.fleet import choose
from llmfleet.planner.choose.shares import spread
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.make import decided, make_plan
from llmfleet.planner.plan import Plan, from_json, sealed, to_text

GPUS = ("A800-80G", "H20-96G", "V100-32G", "P100-16G", "RTX-4090", "L4")
SERVICES = (
    "{name: chat, model: Qwen/Qwen2.5-7B-Instruct, traffic: {rate: RATE, input: {mean: 1500}, output: {mean: 200}}}",
    "{name: big, model: Qwen/Qwen2.5-32B-Instruct, slo: {ttft: 5s, tpot: 150ms}, "
    "traffic: {rate: RATE, input: {mean: 3000, p99: 20000}, output: {mean: 150}}, long_context: {over: 8k}, "
    "fallback: lite}",
    "{name: embed, model: BAAI/bge-m3, task: embed, traffic: {rate: RATE, input: {mean: 400}}}",
    "{name: lite, model: Qwen/Qwen2.5-1.5B-Instruct, precision: [q4_k_m], context: 4k}",
)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def fleets(draw: st.DrawFn) -> Inventory:
    kinds = draw(
        st.lists(st.tuples(st.sampled_from(GPUS), st.integers(1, 3), st.integers(1, 8)), min_size=1, max_size=3)
    )
    shared = draw(st.booleans())
    lines = []
    for k, (gpu, nodes, count) in enumerate(kinds):
        faulty = f", faulty: [{draw(st.integers(0, count - 1))}]" if draw(st.booleans()) else ""
        hosts = "[1-3]" if not shared else "1"
        for n in range(nodes):
            host = f"10.0.{k}.{n + 1}" if not shared else "127.0.0.1"
            lines.append(
                f"  - {{name: k{k}-{n}, host: {host}, gpus: {count} x {gpu}{faulty}, runtime: {{dir: /k{k}-{n}}}}}"
            )
        assert hosts
    chosen = draw(st.sets(st.sampled_from(range(3)), min_size=1, max_size=3))
    rate = draw(st.sampled_from(("0", "0.3", "4")))
    services = [SERVICES[i].replace("RATE", rate) for i in sorted(chosen)] + [SERVICES[3]] * (1 in chosen)
    text = "cluster: c\nnodes:\n" + "\n".join(lines) + "\nservices:\n" + "\n".join(f"  - {s}" for s in services)
    return inventory(text + "\nrouter: {port: 8101}\n")


@FEW
@given(fleets())
def test_every_plan_holds_together(fleet: Inventory) -> None:
    plan = make_plan(fleet, models(fleet))
    assert sealed(from_json(to_text(plan))) == plan
    no_gpu_twice_and_only_usable_ones(plan, fleet)
    everything_fits(plan)
    shares_and_weights_add_up(plan)
    addresses_are_unique(plan, fleet)
    every_gpu_is_accounted_for(plan, fleet)
    assert make_plan(fleet, models(fleet)).hash == plan.hash


def no_gpu_twice_and_only_usable_ones(plan: Plan, fleet: Inventory) -> None:
    parts: dict[tuple[str, int], float] = {}
    for i in plan.instances:
        for place in ((node, g) for node, gpus in i.gpus.items() for g in gpus):
            parts[place] = parts.get(place, 0.0) + i.gpu_share
    assert max(parts.values(), default=0) <= 1
    assert all(g in usable(fleet.node(node)) for node, g in parts)
    assert len({i.id for i in plan.instances}) == len(plan.instances)


def everything_fits(plan: Plan) -> None:
    for i in plan.instances:
        b = i.budget
        parts = b.weights_gib + b.activation_gib + b.non_torch_gib + b.cuda_graph_gib + b.kv_available_gib + b.slack_gib
        assert parts == pytest.approx(b.total_gib, abs=0.01)
        assert b.slack_gib >= 0
        assert sum(map(len, i.gpus.values())) == i.tp * i.pp
        assert i.max_num_seqs >= i.max_concurrency >= 1
        assert i.expected.requests_per_s >= 0
        assert i.capacity_rps > 0


def shares_and_weights_add_up(plan: Plan) -> None:
    for service in plan.services:
        if service.pools:
            assert sum(p.share for p in service.pools) == pytest.approx(1, abs=1e-5)
            assert service.capacity_rps > 0
    assert all(1 <= i.weight <= 1000 for i in plan.instances)
    assert all(i.reason.endswith(".") for i in plan.instances)


def addresses_are_unique(plan: Plan, fleet: Inventory) -> None:
    router = (fleet.node(plan.router.node).host, plan.router.port)
    addresses = [(fleet.node(i.nodes[0]).host, i.port) for i in plan.instances]
    assert len({*addresses, router}) == len(addresses) + 1


def every_gpu_is_accounted_for(plan: Plan, fleet: Inventory) -> None:
    there = {(n.name, g) for n in fleet.nodes for g in range(int((n.gpus or "0 x").split()[0]))}
    used = {(node, g) for i in plan.instances for node, gpus in i.gpus.items() for g in gpus}
    idle = {(u.node, g) for u in plan.unused for g in u.gpus}
    assert used | idle == there
    assert not used & idle


@FEW
@given(fleets(), st.data())
def test_more_gpus_never_plan_less_capacity(fleet: Inventory, data: st.DataObject) -> None:
    """In the order of the objectives: the services that run, then what is served of their demand."""
    node = data.draw(st.sampled_from(fleet.nodes))
    extra = node.model_copy(update={"name": "extra", "host": "10.9.9.9"})
    more = fleet.model_copy(update={"nodes": (*fleet.nodes, extra)})
    (running, part), (before, part_before) = served(more), served(fleet)
    assert running >= before
    assert running > before or part >= part_before - 0.01


def served(fleet: Inventory) -> tuple[int, float]:
    """Services that run, fallbacks aside, and the sum of the parts of their demand that are served."""
    known = models(fleet)
    classes = node_classes(fleet, catalog(), {})
    demands = [demand_of(s, known[s.name]) for s in fleet.services]
    candidates = [c for d in demands for c in options_of(d, classes, catalog()).candidates]
    fallbacks = frozenset(s.fallback for s in fleet.services if s.fallback)
    counts = choose(demands, candidates, classes, fleet.policy, fallbacks).counts
    running, parts = 0, 0.0
    for d in demands:
        mine = {c: n for c, n in counts.items() if c.demand is d}
        if d.service.name not in fallbacks and mine:
            running += 1 + any(c.role == "long" for c in mine)
            parts += min(1.0, spread(d, mine).capacity_rps / d.rate) if d.rate else 0.0
    return running, parts


@FEW
@given(fleets(), st.sampled_from((0.3, 0.6, 0.9)))
def test_a_stricter_slo_never_serves_more(fleet: Inventory, factor: float) -> None:
    loose = with_slo(fleet, 1.0)
    strict = with_slo(fleet, factor)
    assert inside_slo(strict) <= inside_slo(loose) + 0.01


def with_slo(fleet: Inventory, factor: float) -> Inventory:
    slo = fleet.services[0].slo.model_copy(update={"ttft": 4 * factor, "tpot": 0.12 * factor})
    return fleet.model_copy(update={"services": tuple(s.model_copy(update={"slo": slo}) for s in fleet.services)})


def inside_slo(fleet: Inventory) -> float:
    """Parts of the demand that are planned to be served inside the SLO, summed over services."""
    proofs = decided(fleet, models(fleet)).proofs
    return sum(proof.value for proof in proofs if proof.objective == "demand inside the SLO")
