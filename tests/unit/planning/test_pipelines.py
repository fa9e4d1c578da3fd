"""Pipelines over unequal nodes: layers add up, every stage fits, unlike nodes share by their speed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tests.unit.planning.fleets import inventory, models, planned

from llmfleet.planner.candidates.chains import chain_candidates
from llmfleet.planner.candidates.demand import demand_of
from llmfleet.planner.candidates.engines import common_engine
from llmfleet.planner.candidates.node_classes import node_classes
from llmfleet.planner.catalog import catalog
from llmfleet.planner.pipelines.search import Kind, chains, smallest
from llmfleet.planner.pipelines.simulation import closed_loop
from llmfleet.planner.pipelines.steps import ChainSteps
from llmfleet.planner.speed.request import Request

SINGLE24 = (Path(__file__).parents[3] / "examples" / "pipelines" / "single24.yaml").read_text()


@pytest.fixture(scope="module")
def plan():
    return planned(SINGLE24)


def test_every_layer_is_on_exactly_one_node_of_each_pipeline(plan) -> None:
    assert plan.instances
    for one in plan.instances:
        spans = [one.layers[node] for node in one.nodes]
        assert spans[0][0] == 0
        assert spans[-1][1] == 80
        assert all(a[1] == b[0] for a, b in pairwise(spans))
        assert sum(one.pp_partition) == 80
        assert len(one.pp_partition) == one.pp == len(one.nodes)
        assert one.max_num_seqs >= one.max_concurrency


def test_no_node_holds_more_than_its_weights_may_take(plan) -> None:
    most = {"a100": 12, "l4": 7, "t4": 4}  # half of a GPU over 1.71 GB a layer
    for one in plan.instances:
        for node, (start, end) in one.layers.items():
            assert 1 <= end - start <= most[node.split("-")[0]]


def test_faster_nodes_hold_more_layers(plan) -> None:
    (one,) = plan.instances
    held = {kind: [e - s for n, (s, e) in one.layers.items() if n.startswith(kind)] for kind in ("a100", "l4", "t4")}
    assert min(held["a100"]) > max(held["l4"]) > max(held["t4"])
    assert "no node holds the model" in one.reason


def test_a_pipeline_uses_many_nodes_of_several_classes(plan) -> None:
    (one,) = plan.instances
    assert {n.split("-")[0] for n in one.nodes} == {"a100", "l4", "t4"}
    assert plan.services[0].slo_met


def test_it_is_the_same_every_time(plan) -> None:
    assert planned(SINGLE24).hash == plan.hash


def test_the_simulation_is_never_faster_than_the_slowest_stage() -> None:
    fleet = inventory(SINGLE24)
    demand = demand_of(fleet.services[0], models(fleet)["chat"])
    (candidate,) = chain_candidates(demand, node_classes(fleet, catalog(), {}), catalog())
    assert isinstance(candidate.steps, ChainSteps)
    request = Request(763, 232)
    rates = [closed_loop(candidate.steps, request, n) for n in (1, 20, 100, 400)]
    assert rates == sorted(rates)
    slowest = max(candidate.steps.stage_times(128, request.context, 128 * 763 / 232))
    assert rates[-1] * 232 <= 128 / slowest * 1.1


def test_what_is_too_small_together_has_no_pipeline() -> None:
    kinds = [Kind("a", 2, 1, 10, 0.001), Kind("b", 3, 1, 5, 0.002)]
    assert chains(kinds, 80, lambda _: 1.0, 1) == []


def test_two_pipelines_where_there_is_room_for_two() -> None:
    kinds = [Kind("a", 4, 1, 30, 0.001), Kind("b", 4, 1, 30, 0.001)]
    best = chains(kinds, 80, lambda nodes: float(len(nodes) >= 4), 1)[0]
    assert len(best) == 2
    assert all(sum(c.layers) == 80 for c in best)


def test_sets_of_every_number_of_pipelines_are_simulated_and_none_twice() -> None:
    kinds = [Kind("a", 4, 1, 30, 0.001), Kind("b", 4, 1, 30, 0.001)]
    found = chains(kinds, 80, lambda nodes: 1 / len(nodes), 1)
    assert {len(each) for each in found} == {1, 2}
    kept = [sorted(c.nodes for c in each) for each in found]
    assert all(kept.count(each) == 1 for each in kept)


OLD_AND_NEW = """
cluster: old
nodes:
  - {name: "l40s-[0-1]", host: "10.0.1.[0-1]", gpus: 1 x L40S}
  - {name: "v100-[0-3]", host: "10.0.2.[0-3]", gpus: 1 x V100-32G}
services:
  - {name: chat, model: Qwen/Qwen2.5-72B-Instruct, traffic: {rate: 0.1, input: {mean: 500}, output: {mean: 100}}}
"""


def test_a_pipeline_with_old_nodes_runs_the_last_release_for_them_on_all() -> None:
    (one,) = planned(OLD_AND_NEW).instances
    assert {n.split("-")[0] for n in one.nodes} == {"l40s", "v100"}
    assert one.engine_version == "0.19.1"


def test_alone_new_nodes_have_the_newest_release() -> None:
    fleet = inventory(OLD_AND_NEW)
    classes = node_classes(fleet, catalog(), {})
    found = common_engine(fleet.services[0], models(fleet)["chat"], classes, catalog())
    by_version = {engine.version: {c.name for c in members} for members, engine in found}
    newest = catalog().releases[0].version
    assert by_version[newest] == {"l40s"}
    assert by_version["0.19.1"] == {"l40s", "v100"}


SIX_NODES = """
cluster: idle
nodes:
  - {name: "a-[0-2]", host: "10.0.1.[0-2]", gpus: 1 x A100-40G, nic: 25Gb/s}
  - {name: "l-[0-2]", host: "10.0.2.[0-2]", gpus: 1 x L40S, nic: 25Gb/s}
services:
  - {name: chat, model: Qwen/Qwen2.5-72B-Instruct, traffic: {rate: 0.2, input: {mean: 1000}, output: {mean: 200}}}
"""
EMBED = "  - {name: embed, model: BAAI/bge-m3, task: embed, traffic: {rate: 5, input: {mean: 400}}}\n"
LARGE_NODE = '  - {name: "h", host: "10.0.0.1", gpus: 2 x H100-80G, nic: 25Gb/s}\n'


def test_a_pipeline_leaves_nodes_to_a_service_that_would_run_nowhere_else() -> None:
    plan = planned(SIX_NODES + EMBED)
    assert {one.service for one in plan.instances} == {"chat", "embed"}
    (chat,) = (one for one in plan.instances if one.service == "chat")
    assert len(chat.nodes) < 6
    assert not any("runs nowhere" in warning for warning in plan.warnings)


def test_alone_it_takes_what_serves_more() -> None:
    (chat,) = planned(SIX_NODES).instances
    assert len(chat.nodes) == 6


@pytest.mark.parametrize(("rate", "nodes"), [(1, {"h"}), (3, {"h", "a", "l"})])
def test_nodes_that_do_not_hold_the_model_form_a_pipeline_where_they_are_needed(rate: float, nodes: set[str]) -> None:
    plan = planned(SIX_NODES.replace("nodes:\n", "nodes:\n" + LARGE_NODE).replace("rate: 0.2", f"rate: {rate}"))
    assert {node.split("-")[0] for one in plan.instances for node in one.nodes} == nodes
    for one in plan.instances:
        assert ("none of these nodes holds the model" in one.reason) == (one.pp > 1)


def test_the_smallest_pipelines_cannot_do_without_any_of_their_nodes() -> None:
    kinds = [Kind("a", 3, 1, 30, 0.001), Kind("b", 3, 1, 40, 0.002)]
    found = smallest(kinds, 80, len, 1)
    assert found
    counts = [{name: [n for n, _ in c.nodes].count(name) for name in ("a", "b")} for c in found]
    assert {"a": 0, "b": 3} in counts
    most = {"a": 30, "b": 40}
    for each in counts:
        for spared in (name for name in each if each[name]):
            left = sum(most[name] * (n - (name == spared)) for name, n in each.items())
            assert left * 0.7 < 82  # room at the emptier of the two fills; embedding and head are as large as a layer
