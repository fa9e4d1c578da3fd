"""The fleet of the documents: what a careful engineer would do with it follows from the figures."""

from __future__ import annotations

import pytest
from tests.unit.planning.fleets import EXAMPLE, REFERENCE, planned, reference

from llmfleet.planner.plan import Instance, by_service, from_json, sealed, to_json


def on(prefix: str) -> list[Instance]:
    return [i for i in reference().instances if i.nodes[0].startswith(prefix)]


@pytest.mark.parametrize(
    ("nodes", "service", "count", "tp", "engine", "version", "precision"),
    [
        ("a800", {"chat"}, 4, 4, "vllm", "0.33.0", "bfloat16"),
        ("h20", {"chat"}, 2, 8, "vllm", "0.33.0", "bfloat16"),
        ("v100", {"embed", "rerank"}, 16, 1, "vllm", "0.19.1", "float16"),
        ("p100", {"chat-lite"}, 4, 1, "llama.cpp", "b11549", "q4_k_m"),
    ],
)
def test_each_class_gets_the_work_that_suits_it(nodes, service, count, tp, engine, version, precision):
    found = on(nodes)
    assert {i.service for i in found} == service
    assert len(found) == count
    assert {i.tp for i in found} == {tp}
    assert {(i.engine, i.engine_version) for i in found} == {(engine, version)}
    assert {i.quantization or i.dtype for i in found} == {precision}


def test_two_instances_on_each_a800_node_and_one_on_each_h20_node():
    assert [i.id for i in on("a800")] == ["chat-a800-0-0", "chat-a800-0-1", "chat-a800-1-0", "chat-a800-1-1"]
    assert [i.gpus for i in on("a800-0")] == [{"a800-0": (0, 1, 2, 3)}, {"a800-0": (4, 5, 6, 7)}]
    assert [i.gpus for i in on("h20")] == [{f"h20-{n}": tuple(range(8))} for n in (0, 1)]


def test_long_prompts_go_where_the_most_kv_cache_is():
    chat = next(s for s in reference().services if s.name == "chat")
    pools = {p.name: p for p in chat.pools}
    assert pools["long"].over_tokens == 16_000
    assert pools["long"].instances == pools["shared"].instances == ("chat-h20-0-0", "chat-h20-1-0")
    assert 0.4 < pools["main"].share < 0.7  # about 6 : 4 between A800 and H20
    assert 0.01 < pools["long"].share < 0.05  # p99 is 20 000 tokens
    assert on("h20")[0].max_model_len == 32_768
    assert on("a800")[0].max_model_len < 20_000


def test_embedding_and_rerank_are_on_every_v100_node():
    for service in ("embed", "rerank"):
        assert {i.nodes[0] for i in by_service(reference().instances)[service]} == {f"v100-{n}" for n in range(4)}


def test_demand_is_met_inside_the_slo():
    plan = reference()
    assert plan.warnings == ()
    assert all(s.slo_met for s in plan.services)
    for i in by_service(plan.instances)["chat"]:
        assert i.expected.ttft_tail_ms <= 3000
        assert i.expected.tpot_tail_ms <= 100
        assert i.expected.ttft_ms_range[0] < i.expected.ttft_ms < i.expected.ttft_ms_range[1]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("a800", ["TP2 does not fit", "TP8 would do", "% more", "GiB", "tokens"]),
        ("h20", ["TP4 takes", "first token of a long prompt", "Prompts over 16k tokens", "most room"]),
        (
            "v100",
            ["0.19.1", "the last release built for compute capability 7.0", "where chat does not fit", "a800 and h20"],
        ),
        ("p100", ["llama.cpp", "vLLM needs compute capability 7.0, P100-16G has 6.0", "Fallback"]),
    ],
)
def test_reasons_say_why_with_numbers(nodes, said):
    for part in said:
        assert part in on(nodes)[0].reason


def test_rejections_name_class_service_and_shape():
    found = {(r.node_class, r.service, r.shape) for r in reference().rejected}
    assert ("a800", "chat", "TP2 bf16") in found
    assert ("a800", "chat", "TP8 bf16 (main pool)") in found
    assert ("v100", "chat", "TP4 fp16") in found
    assert all(r.reason for r in reference().rejected)


def test_the_plan_is_the_same_every_time_and_survives_json():
    again = planned(REFERENCE)
    assert again.hash == reference().hash
    assert from_json(__import__("json").dumps(to_json(again))) == again
    assert sealed(again) == again


def test_weights_are_looked_for_by_model_id():
    assert on("a800")[0].weights_path == "/models/Qwen/Qwen1.5-72B-Chat"
    assert on("p100")[0].weights_path == "/models/Qwen/Qwen2.5-14B-Instruct-q4_k_m.gguf"


def test_the_head_carries_the_router():
    router = reference().router
    assert (router.node, router.bind, router.port) == ("head", "10.0.0.10", 8080)
    assert (router.nodes, router.address) == (("head",), None)
    assert reference().head == "head"


def test_the_example_of_the_documents_is_cut_alike():
    plan = planned(EXAMPLE)
    cut = {(i.nodes[0].rsplit("-", 1)[0], i.service, i.engine, i.tp) for i in plan.instances}
    assert cut == {
        ("a800", "chat", "vllm", 4),
        ("h20", "chat", "vllm", 8),
        ("v100", "embed", "vllm", 1),
        ("v100", "rerank", "vllm", 1),
        ("p100", "chat-lite", "llama.cpp", 1),
    }
    assert [i.id for i in plan.instances if i.nodes == ("a800-0",)] == ["chat-a800-0-0", "chat-a800-0-1"]
    assert [len(i.gpus["h20-0"]) for i in plan.on_node("h20-0")] == [8]
    assert plan.warnings == ()
    assert plan.unused == ()
