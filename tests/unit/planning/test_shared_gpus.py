"""Several small models on one GPU, where there are too few for all."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import inventory, models, planned

from llmfleet.launch.export.kubernetes import kubernetes
from llmfleet.launch.export.ray_serve import ray_serve
from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import InputError, PlanError
from llmfleet.planner.make import make_plan
from llmfleet.planner.memory.settings import visible_bytes
from llmfleet.planner.memory.types import GIB
from llmfleet.planner.plan import Plan

FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GPUS = ("A800-80G", "RTX-4090", "L4", "T4", "H20-96G")
SERVICES = """
services:
  - {name: chat, model: Qwen/Qwen2.5-1.5B-Instruct, traffic: {rate: RATE, input: {mean: 800}, output: {mean: 100}}}
  - {name: embed, model: BAAI/bge-m3, task: embed, traffic: {rate: 5, input: {mean: 400}}}
  - {name: rerank, model: BAAI/bge-reranker-v2-m3, task: rerank, traffic: {rate: 5, input: {mean: 400}}}
"""


def fleet(gpus: str, *, nodes: int = 1, rate: float = 1, policy: str = "") -> str:
    hosts = "".join(f"  - {{name: n{i}, host: 10.0.0.{i + 1}, gpus: {gpus}}}\n" for i in range(nodes))
    return f"cluster: c\nnodes:\n{hosts}{SERVICES.replace('RATE', str(rate))}{policy}"


def by_gpu(plan: Plan) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for i in plan.instances:
        for node, gpus in i.gpus.items():
            for gpu in gpus:
                found[node, gpu].append(i.service)
    return dict(found)


def test_one_card_serves_three_models() -> None:
    plan = planned(fleet("1 x A800-80G"))
    assert by_gpu(plan) == {("n0", 0): ["chat", "embed", "rerank"]}
    assert {i.service: i.gpu_share for i in plan.instances} == {"chat": 0.5, "embed": 0.25, "rerank": 0.25}
    assert all(s.slo_met for s in plan.services)
    assert len({i.port for i in plan.instances}) == 3
    assert "Half of a card" in plan.instances[0].reason
    assert plan.unused == ()


def test_enough_cards_are_not_shared() -> None:
    plan = planned(fleet("3 x A800-80G"))
    assert [i.gpu_share for i in plan.instances] == [1, 1, 1]


def test_a_service_that_nobody_asks_leaves_the_whole_card_to_one_that_is_asked() -> None:
    text = fleet("2 x A800-80G", rate=4).replace("1.5B", "7B")
    idle = text.replace("services:\n", "services:\n  - {name: idle, model: Qwen/Qwen2.5-7B-Instruct}\n")
    shares = {i.service: i.gpu_share for i in planned(idle).instances}
    assert shares == {"idle": 0.5, "chat": 1, "embed": 0.25, "rerank": 0.25}


def test_on_two_cards_the_one_that_is_asked_most_has_its_own() -> None:
    plan = planned(fleet("2 x RTX-4090", rate=4))
    assert sorted(by_gpu(plan).values()) == [["chat"], ["embed", "rerank"]]


def test_no_sharing_where_the_policy_forbids_it() -> None:
    plan = planned(fleet("1 x A800-80G", policy="policy: {share_gpus: false}\n"))
    assert [i.gpu_share for i in plan.instances] == [1]
    assert sum("runs nowhere" in w for w in plan.warnings) == 2


def test_cpu_slots_are_not_shared() -> None:
    assert all(i.gpu_share == 1 for i in planned(fleet("1 x CPU-8G")).instances)


def test_with_redundancy_both_nodes_hold_all() -> None:
    plan = planned(fleet("1 x A800-80G", nodes=2, policy="policy: {redundancy: 1}\n"))
    assert sorted(map(sorted, by_gpu(plan).values())) == [["chat", "embed", "rerank"]] * 2
    assert not [w for w in plan.warnings if "after the loss" in w]


@FEW
@given(st.sampled_from(GPUS), st.integers(1, 3), st.integers(1, 2), st.sampled_from((0, 1, 40)))
def test_what_shares_a_card_fits_into_it(gpu: str, count: int, nodes: int, rate: float) -> None:
    asked = inventory(fleet(f"{count} x {gpu}", nodes=nodes, rate=rate))
    plan = make_plan(asked, models(asked))
    there: dict[tuple[str, int], list[float]] = defaultdict(list)
    asked_of_card: dict[tuple[str, int], float] = defaultdict(float)
    for i in plan.instances:
        for node, gpus in i.gpus.items():
            for index in gpus:
                there[node, index].append(i.budget.total_gib - i.budget.slack_gib)
                asked_of_card[node, index] += i.gpu_memory_utilization
    visible = visible_bytes(catalog().gpu(gpu)) / GIB
    assert all(sum(used) <= visible for used in there.values())
    assert all(part <= 1 for part in asked_of_card.values())
    apart = inventory(fleet(f"{count} x {gpu}", nodes=nodes, rate=rate, policy="policy: {share_gpus: false}\n"))
    running = {s.name for s in make_plan(apart, models(apart)).services if s.pools}
    assert running <= {s.name for s in plan.services if s.pools}, "sharing ended a service"


def test_exports_that_give_whole_gpus_refuse() -> None:
    asked = inventory(fleet("1 x A800-80G"))
    plan = make_plan(asked, models(asked))
    for export in (kubernetes, ray_serve):
        with pytest.raises(InputError, match="chat-n0-0, embed-n0-0, rerank-n0-0 share GPUs"):
            export(asked, plan)


def by_hand(gpus: str, **placements: str) -> str:
    text = fleet(gpus)
    for service, written in placements.items():
        text = text.replace(f"name: {service},", f"name: {service}, placement: {written},")
    return text


def test_parts_by_hand_fill_a_gpu_and_the_rest_is_nobodys() -> None:
    parts = {"embed": "[{nodes: [n0], part: quarter}]", "rerank": "[{nodes: [n0], part: half}]"}
    plan = planned(by_hand("2 x A800-80G", **parts))
    assert sorted(by_gpu(plan)["n0", 0]) == ["embed", "rerank"]
    assert by_gpu(plan)["n0", 1] == ["chat"]
    assert {i.service: i.gpu_share for i in plan.instances} == {"embed": 0.25, "rerank": 0.5, "chat": 1.0}
    (embed,) = (i for i in plan.instances if i.service == "embed")
    assert embed.reason.startswith("A quarter of a card, as the inventory says.")


def test_parts_of_one_service_by_hand_go_to_as_many_gpus_as_they_fill() -> None:
    three, one = "[{each: [n0], part: half, count: 3}]", "[{nodes: [n0], part: half}]"
    plan = planned(by_hand("4 x L4", embed=three, rerank=one))
    assert by_gpu(plan)["n0", 0] == ["embed", "embed"]
    assert sorted(by_gpu(plan)["n0", 1]) == ["embed", "rerank"]
    assert {"chat"} == {*by_gpu(plan)["n0", 2], *by_gpu(plan)["n0", 3]}


@pytest.mark.parametrize(
    ("gpus", "written", "said"),
    [
        ("1 x T4", "[{nodes: [n0], part: quarter}]", "chat.placement[0]: Qwen/Qwen2.5-1.5B-Instruct does not fit into"),
        ("2 x CPU-32G", "[{nodes: [n0], part: half}]", "several engines cannot share a CPU-32G"),
        ("1 x L4", "[{nodes: [n0], part: half, count: 3}]", "1 GPUs of n0 are needed, 0 are free"),
    ],
)
def test_parts_by_hand_that_cannot_be(gpus: str, written: str, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        planned(by_hand(gpus, chat=written))
    assert said in str(caught.value)
