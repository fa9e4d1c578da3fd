"""`redundancy: 1` is planned for: the demand is served inside the SLO after the loss of any one node."""

from __future__ import annotations

import pytest
from tests.unit.planning.fleets import inventory, models, planned

from llmfleet.planner.catalog import catalog
from llmfleet.planner.choose.decision import Decision, decide
from llmfleet.planner.explain_fleet import worst_loss

FLEET = """
cluster: c
nodes:
  - {name: "a-[0-2]", host: "10.0.0.[0-2]", gpus: 4 x A100-80G, price: 10}
  - {name: "l-[0-7]", host: "10.0.1.[0-7]", gpus: 1 x L4, price: 1}
services:
  - {name: chat, model: Qwen/Qwen2.5-7B-Instruct, slo: {ttft: 3s, tpot: 80ms},
     traffic: {rate: RATE, input: {mean: 800, p99: 6000}, output: {mean: 200}}LONG}
policy: {objective: OBJECTIVE, redundancy: LOST, headroom: 0}
"""


def decided(rate: float, objective: str, lost: int, long: bool = False) -> Decision:
    text = FLEET.replace("RATE", str(rate)).replace("OBJECTIVE", objective).replace("LOST", str(lost))
    fleet = inventory(text.replace("LONG", ", long_context: {over: 3k}" if long else ""))
    return decide(fleet, models(fleet), catalog())


def kept(decision: Decision) -> float:
    return worst_loss(decision, decision.demands[0])


@pytest.mark.parametrize("objective", ["cost", "min-nodes"])
@pytest.mark.parametrize("long", [False, True])
def test_more_is_bought_where_a_node_may_fail(objective: str, long: bool) -> None:
    bare, safe = (decided(3, objective, lost, long) for lost in (0, 1))
    assert kept(bare) < 1
    assert kept(safe) == 1
    assert len({p.nodes for p in safe.placed}) > len({p.nodes for p in bare.placed})


@pytest.mark.parametrize("rate", [1, 4, 9, 16])
def test_goodput_survives_too(rate: float) -> None:
    assert kept(decided(rate, "goodput", 1)) == 1


def test_what_cannot_survive_is_planned_as_well_as_it_can_be() -> None:
    text = FLEET.replace("RATE", "300").replace("OBJECTIVE", "goodput").replace("LOST", "1")
    plan = planned(text.replace("LONG", ""))
    assert plan.instances
    assert any("of its peak after the loss of one node" in w for w in plan.warnings)


def test_a_service_has_its_least_number_of_instances() -> None:
    text = FLEET.replace("RATE", "0.1").replace("OBJECTIVE", "cost").replace("LOST", "0")
    assert len(planned(text.replace("LONG", "")).instances) == 1
    assert len(planned(text.replace("LONG", ", min_instances: 3")).instances) == 3
