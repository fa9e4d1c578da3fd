"""The cut that a careful engineer would make by hand, evaluated by the same model, is never better than ours."""

from __future__ import annotations

import pytest
import yaml
from tests.unit.planning.fleets import EXAMPLE, REFERENCE, inventory, models, planned

from llmfleet.planner.make import make_plan
from llmfleet.planner.plan import Plan

# Two TP4 a node on A800, TP8 on H20, two cards of each V100 node for embedding and two for rerank, P100 for the rest.
BY_HAND = {
    "chat": [{"each": ["a800-[0-1]"], "tp": 4, "count": 2}, {"each": ["h20-[0-1]"], "tp": 8}],
    "embed": [{"each": ["v100-[0-3]"], "count": 2}],
    "rerank": [{"each": ["v100-[0-3]"], "count": 2}],
    "chat-lite": [{"each": ["p100-[0-3]"]}],
}


def by_hand(text: str) -> str:
    written = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - makes nothing but text, lists and dicts
    for service in written["services"]:
        service["placement"] = BY_HAND[service["name"]]
    return yaml.safe_dump(written)


def goodput(plan: Plan) -> dict[str, float]:
    """Requests/s of the peak that each service serves inside its SLO."""
    return {s.name: min(s.capacity_rps, s.demand_rps) for s in plan.services}


def fullest(plan: Plan) -> float:
    return max(s.demand_rps / s.capacity_rps for s in plan.services if s.demand_rps)


@pytest.mark.parametrize("text", [REFERENCE, EXAMPLE])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_goodput_is_never_below_that_of_the_hand_plan(text: str, times: int) -> None:
    """At the traffic of the documents, and where it is two and three times that."""
    hand, fleet = inventory(by_hand(text)), inventory(text)
    plans = []
    for each in (fleet, hand):
        services = [
            s.model_copy(update={"traffic": s.traffic.model_copy(update={"growth": float(times)})}) if s.traffic else s
            for s in each.services
        ]
        grown = each.model_copy(update={"services": tuple(services)})
        plans.append(make_plan(grown, models(grown)))
    ours, theirs = plans
    assert sum(goodput(ours)[n] / s.demand_rps for n, s in ((s.name, s) for s in ours.services) if s.demand_rps) >= sum(
        goodput(theirs)[n] / s.demand_rps for n, s in ((s.name, s) for s in theirs.services) if s.demand_rps
    ) * (1 - 1e-4)
    assert fullest(ours) <= fullest(theirs) * (1 + 1e-3)


def test_a_range_stands_for_each_of_its_nodes() -> None:
    plan = planned(by_hand(REFERENCE))
    chat = [i for i in plan.instances if i.service == "chat"]
    assert [i.nodes for i in chat] == [("a800-0",), ("a800-0",), ("a800-1",), ("a800-1",), ("h20-0",), ("h20-1",)]
    assert [i.tp for i in chat] == [4, 4, 4, 4, 8, 8]


def test_a_range_in_nodes_is_one_instance_over_all_of_them() -> None:
    text = """
cluster: c
nodes: [{name: "n-[0-1]", host: "h-[0-1]", gpus: 2 x L4}]
services: [{name: s, model: Qwen/Qwen2.5-14B-Instruct, traffic: {rate: 0.1}, placement: [{nodes: ["n-[0-1]"], tp: 2}]}]
"""
    (one,) = planned(text).instances
    assert one.nodes == ("n-0", "n-1")
    assert one.pp == 2
    assert one.layers == {"n-0": (0, 24), "n-1": (24, 48)}
