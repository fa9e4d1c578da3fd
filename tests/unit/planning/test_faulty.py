"""A faulty GPU costs what it must: the others of its node still hold what they can."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import inventory, models

from llmfleet.planner import explain_fleet
from llmfleet.planner.candidates.build import options_of
from llmfleet.planner.candidates.demand import demand_of
from llmfleet.planner.candidates.node_classes import node_classes
from llmfleet.planner.catalog import catalog
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.make import decided, make_plan

FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODELS = ("Qwen/Qwen1.5-72B-Chat", "Qwen/Qwen2.5-32B-Instruct")


def fleet(faulty: set[int], model: str, slo: str = "") -> Inventory:
    return inventory(f"""
cluster: c
nodes: [{{name: a, host: 10.0.0.1, gpus: 8 x A800-80G, faulty: {sorted(faulty)}}}]
services: [{{name: chat, model: {model}, traffic: {{rate: 9, input: {{mean: 3000}}, output: {{mean: 300}}}}{slo}}}]
""")


def unused(asked: Inventory) -> set[int]:
    return {g for u in explain_fleet.unused(decided(asked, models(asked))) for g in u.gpus}


@FEW
@given(st.sets(st.integers(0, 7), min_size=1, max_size=6), st.sampled_from(MODELS))
def test_what_stays_beside_a_faulty_gpu_could_hold_no_instance(faulty: set[int], model: str) -> None:
    asked = fleet(faulty, model)
    left = unused(asked) - faulty
    if not left:
        return
    alone = fleet(set(range(8)) - left, model)
    service = alone.services[0]
    classes = node_classes(alone, catalog(), {})
    assert not options_of(demand_of(service, models(alone)["chat"]), classes, catalog()).candidates


def test_three_gpus_beside_a_quartet_become_a_pipeline() -> None:
    asked = fleet({2}, MODELS[0])
    plan = make_plan(asked, models(asked))
    assert sorted((i.tp, i.pp) for i in plan.instances) == [(1, 3), (4, 1)]


def test_a_pipeline_too_slow_for_the_slo_is_not_started() -> None:
    asked = fleet({2}, MODELS[0], ", slo: {ttft: 4s, tpot: 100ms}")
    assert [(i.tp, i.pp) for i in make_plan(asked, models(asked)).instances] == [(4, 1)]


def test_a_fleet_of_nothing_but_faulty_gpus_is_not_one_without() -> None:
    asked = fleet(set(range(8)), MODELS[0])
    (said, *_) = make_plan(asked, models(asked)).warnings
    assert said == "chat runs nowhere: every GPU of the inventory is faulty, or of a node that is excluded"
