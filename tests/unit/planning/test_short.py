"""Fleets that cannot do what is asked: a plan that says so, or an error that says why."""

from __future__ import annotations

import pytest
from tests.unit.planning.fleets import REFERENCE, inventory, models, planned

from llmfleet.planner.errors import InputError, PlanError, UnknownNameError
from llmfleet.planner.make import make_plan

SMALL = """
cluster: small
nodes:
  - {name: n1, host: 10.0.0.1, gpus: 2 x RTX-4090}
services:
  - {name: chat, model: MODEL, traffic: {rate: RATE, input: {mean: 500}, output: {mean: 100}}EXTRA}
"""


def small(model: str = "Qwen/Qwen2.5-7B-Instruct", rate: float = 1, extra: str = "") -> str:
    return SMALL.replace("MODEL", model).replace("RATE", str(rate)).replace("EXTRA", extra)


def test_a_service_that_fits_nowhere_is_left_out_with_the_reason():
    plan = planned(small("Qwen/Qwen1.5-72B-Chat"))
    assert plan.instances == ()
    assert not plan.services[0].slo_met
    assert plan.services[0].pools == ()
    assert any("chat runs nowhere" in w and "exceed the" in w for w in plan.warnings)
    assert plan.unused[0].gpus == (0, 1)
    assert "no service runs here" in plan.unused[0].reason


def test_too_much_traffic_says_what_is_missing():
    plan = planned(small(rate=500))
    assert plan.instances
    assert not plan.services[0].slo_met
    assert plan.warnings[0] == "chat is short: 500 req/s at the peak, 26.4 at most"


def test_an_slo_that_nothing_keeps():
    plan = planned(small(extra=", slo: {ttft: 1ms}"))
    assert not plan.services[0].slo_met
    assert any("misses its SLO even idle" in w for w in plan.warnings)


def test_no_traffic_still_runs():
    plan = planned(small().replace(", traffic: {rate: 1, input: {mean: 500}, output: {mean: 100}}", ""))
    assert len(plan.instances) == 2
    assert plan.services[0].slo_met
    assert plan.services[0].demand_rps == 0


def test_nodes_without_gpus():
    plan = planned(small().replace(", gpus: 2 x RTX-4090", ""))
    assert plan.instances == ()
    assert any("the inventory has no GPUs" in w for w in plan.warnings)


def test_faulty_and_excluded_gpus_are_not_used():
    text = small().replace("gpus: 2 x RTX-4090", "gpus: 2 x RTX-4090, faulty: [0]")
    plan = planned(text)
    assert [dict(i.gpus) for i in plan.instances] == [{"n1": (1,)}]
    assert [(u.gpus, u.reason) for u in plan.unused] == [((0,), "faulty in the inventory")]
    gone = planned(REFERENCE.replace('nic: 25Gb/s}\n  - {name: "h20', 'nic: 25Gb/s, exclude: true}\n  - {name: "h20'))
    assert not [i for i in gone.instances if i.nodes[0].startswith("a800")]
    assert {u.node for u in gone.unused} == {"a800-0", "a800-1"}


def test_cost_needs_prices():
    with pytest.raises(InputError, match="has no price"):
        planned(small() + "policy: {objective: cost}\n")


def test_min_nodes_takes_no_more_than_it_needs():
    text = small(rate=0.5).replace("{name: n1, host: 10.0.0.1,", '{name: "n[1-4]", host: "10.0.0.[1-4]",')
    plan = planned(text + "policy: {objective: min-nodes}\n")
    assert {i.nodes[0] for i in plan.instances} == {"n1"}
    assert plan.services[0].slo_met
    assert all("objective is min-nodes" in u.reason for u in plan.unused)


def test_cost_takes_the_cheapest_class():
    text = small(rate=0.5).replace(
        "gpus: 2 x RTX-4090}",
        "gpus: 2 x RTX-4090, price: 3/h}\n  - {name: m1, host: 10.0.0.2, gpus: 1 x L4, price: 0.7/h}",
    )
    plan = planned(text + "policy: {objective: cost}\n")
    assert {i.nodes[0] for i in plan.instances} == {"m1"}


def test_a_model_nobody_described():
    fleet = inventory(small())
    with pytest.raises(PlanError, match=r"services\.chat"):
        make_plan(fleet, {})


def test_a_gpu_nobody_knows():
    fleet = inventory(small().replace("RTX-4090", "RTX-9999"))
    with pytest.raises(UnknownNameError):
        make_plan(fleet, models(fleet))


def test_an_installed_engine_that_is_too_new_for_the_gpu():
    text = small("BAAI/bge-m3").replace("2 x RTX-4090", "2 x V100-32G, runtime: {versions: {vllm: 0.33.0}}")
    plan = planned(text.replace("model: BAAI/bge-m3,", "model: BAAI/bge-m3, task: embed, engine: vllm,"))
    assert plan.instances == ()
    assert any("vLLM 0.33.0 is installed; 0.19.1 is the last release" in r.reason for r in plan.rejected)


def test_a_pipeline_over_nodes_only_when_nothing_else_fits():
    text = small("Qwen/Qwen1.5-72B-Chat").replace(
        "{name: n1, host: 10.0.0.1, gpus: 2 x RTX-4090}",
        '{name: "n[1-3]", host: "10.0.0.[1-3]", gpus: 4 x RTX-4090, nic: 25Gb/s}',
    )
    plan = planned(text)
    assert len(plan.instances) == 1
    only = plan.instances[0]
    assert (only.tp, only.pp, only.nodes) == (4, 2, ("n1", "n2")) or (only.tp, only.pp) == (4, 3)
    assert set(only.gpus) == set(only.nodes)
