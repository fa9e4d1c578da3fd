"""Instances fixed by hand: honoured exactly, refused with the reason where they cannot be."""

from __future__ import annotations

import pytest
from tests.unit.planning.fleets import LAB, LAPTOP, REFERENCE, planned

from llmfleet.planner.errors import PlanError


def test_cpu_slots_and_a_pipeline_over_two_nodes():
    plan = planned(LAB)
    assert [(i.id, i.nodes, dict(i.gpus), i.tp, i.pp) for i in plan.instances] == [
        ("chat-h1-0", ("h1",), {"h1": (0,)}, 1, 1),
        ("chat-h2-0", ("h2",), {"h2": (0,)}, 1, 1),
        ("chat-h3-0", ("h3", "h4"), {"h3": (0,), "h4": (0,)}, 1, 2),
    ]
    for i in plan.instances:
        assert (i.accelerator, i.engine, i.engine_version, i.dtype) == ("cpu", "vllm", "0.32.0", "float32")
        assert i.weights_path == "/models/tiny"
        assert 0 < i.kv_cache_memory_bytes < 3 << 30
        assert i.max_model_len == 2048
    assert plan.instances[2].spans_nodes
    assert sum(p.share for p in plan.services[0].pools) == pytest.approx(1)


def test_nodes_that_share_an_address_share_its_ports():
    plan = planned(LAPTOP)
    assert [i.id for i in plan.instances] == ["chat-slot-a-0", "chat-slot-b-0"]
    # 8100 and 8101 are the router's
    assert [i.port for i in plan.instances] == [8102, 8103]
    assert {i.engine for i in plan.instances} == {"llama.cpp"}
    assert {i.weights_path for i in plan.instances} == {"{models}/tiny-q4_k_m.gguf"}
    assert {i.weights_source for i in plan.instances} == {"models/tiny-q4_k_m.gguf"}


def test_each_router_keeps_its_ports():
    plan = planned(REFERENCE + "router: {port: 8100, also: [a800-0], address: 10.0.0.9}\n")
    assert (plan.router.nodes, plan.router.address) == (("head", "a800-0"), "10.0.0.9")
    first = {node: min(i.port for i in plan.instances if i.nodes[0] == node) for node in ("a800-0", "a800-1")}
    assert first == {"a800-0": 8101, "a800-1": 8100}


def test_none_is_added_and_the_rest_goes_to_others():
    text = REFERENCE.replace(
        "    fallback: chat-lite\n",
        "    fallback: chat-lite\n    placement: [{nodes: [a800-0], tp: 4}, {nodes: [h20-1], tp: 8}]\n",
        1,
    )
    plan = planned(text)
    assert [i.id for i in plan.instances if i.service == "chat"] == ["chat-a800-0-0", "chat-h20-1-0"]
    assert dict(plan.instances[0].gpus) == {"a800-0": (0, 1, 2, 3)}
    used = [(n, g) for i in plan.instances for n, gpus in i.gpus.items() for g in gpus]
    assert len(used) == len(set(used))
    assert "as the inventory says" in plan.instances[0].reason
    assert any("chat is short" in w for w in plan.warnings)


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ("[{nodes: [a800-0], tp: 1}]", "does not fit: weights of 134."),
        ("[{nodes: [a800-0], tp: 3}]", "TP3 does not divide 64 attention heads"),
        ("[{nodes: [a800-0], tp: 16}]", "16 GPUs of a800-0 are needed, 8 are free"),
        (
            "[{nodes: [a800-0], tp: 8}, {nodes: [a800-0], tp: 4}]",
            "placement[1]: 4 GPUs of a800-0 are needed, 0 are free",
        ),
        ("[{nodes: [a800-0, a800-1], tp: 4, pp: 3}]", "3 pipeline stages do not spread over 2 nodes"),
        ("[{nodes: [a800-0, a800-1], tp: 4, pp_partition: [40, 41]}]", "does not cut 80 layers into 2 stages"),
        ("[{nodes: [p100-0]}]", "cannot run on p100"),
        ("[{nodes: [a800-0, h20-0], tp: 64}]", "64 GPUs of a800-0 are needed"),
    ],
)
def test_impossible_placements_say_where_and_why(placement, said):
    text = REFERENCE.replace("    fallback: chat-lite\n", f"    fallback: chat-lite\n    placement: {placement}\n", 1)
    with pytest.raises(PlanError) as caught:
        planned(text)
    assert caught.value.message.startswith("services.chat.placement[")
    assert said in str(caught.value)


def test_an_uneven_partition_is_kept():
    text = LAB.replace("{nodes: [h3, h4], pp: 2}", "{nodes: [h3, h4], pp: 2, pp_partition: [3, 1]}")
    assert planned(text).instances[2].pp_partition == (3, 1)


def test_an_instance_that_keeps_no_slo_gets_next_to_nothing_where_others_do():
    plan = planned(
        """
cluster: c
nodes:
  - {name: fast, host: 10.0.0.1, gpus: 8 x A800-80G}
  - {name: slow, host: 10.0.0.2, gpus: 8 x RTX-3090}
services:
  - name: chat
    model: Qwen/Qwen1.5-72B-Chat
    slo: {ttft: 3s, tpot: 120ms}
    traffic: {rate: 0.5, input: {mean: 1500, p99: 9000}, output: {mean: 200}}
    placement: [{nodes: [fast], tp: 4}, {nodes: [fast], tp: 4}, {nodes: [slow], tp: 8}]
"""
    )
    assert [i.weight for i in plan.instances] == [1000, 1000, 1]
