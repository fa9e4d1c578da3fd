"""What simulated engines understand and answer, without any process."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.router.fleets import rag_plan
from tests.unit.simulate.test_live import live

from llmfleet.launch.rehearse.api import chunk, completion, embedding, read_prompt, scores, usage_chunk
from llmfleet.launch.rehearse.faults import Fault, faults, require_within
from llmfleet.launch.rehearse.http import Asked, request_in
from llmfleet.launch.rehearse.metrics import Figures, page
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.plan import Plan

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def asked(path: str = COMPLETIONS, **body: object) -> object:
    return read_prompt(json.dumps({"model": "m", **body}).encode(), path, 16)


def test_tokens_are_four_bytes_or_ids() -> None:
    assert asked(prompt="x" * 401).tokens == 101  # type: ignore[attr-defined]
    assert asked(prompt=list(range(77))).tokens == 77  # type: ignore[attr-defined]
    assert asked(CHAT, messages=[{"role": "user", "content": "x" * 40}]).tokens == 14  # type: ignore[attr-defined]
    parts = [{"type": "text", "text": "x" * 8}, {"type": "image_url"}]
    assert asked(CHAT, messages=[{"role": "user", "content": parts}]).tokens == 6  # type: ignore[attr-defined]
    assert asked("/v1/embeddings", input=["x" * 8, "y" * 8]).tokens == 4  # type: ignore[attr-defined]
    assert asked("/v1/rerank", query="qq", documents=["dd", "dd"]).items == 2  # type: ignore[attr-defined]


def test_equal_beginnings_have_equal_hashes_and_what_follows_a_difference_has_not() -> None:
    text = "".join(f"{i:04d}" for i in range(64))
    one = asked(prompt=text + "a" * 64).hashes  # type: ignore[attr-defined]
    two = asked(prompt=text + "b" * 64).hashes  # type: ignore[attr-defined]
    three = asked(prompt="z" + text[1:]).hashes  # type: ignore[attr-defined]
    assert len(one) == 5 and one[:4] == two[:4] and one[4] != two[4]
    assert not set(three) & set(one)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"model": "m", "prompt": ["a", "b"]}', b'{"model": "m", "max_tokens": "many"}']
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_prompt(body, COMPLETIONS, 16)


def test_answers_have_openais_shapes() -> None:
    prompt = read_prompt(b'{"model": "m", "prompt": "hello", "max_tokens": 3, "stream": true}', COMPLETIONS, 16)
    assert json.loads(chunk(prompt, COMPLETIONS, 1, done=False))["choices"][0]["text"]
    last = json.loads(chunk(prompt, CHAT, 3, done=True))["choices"][0]
    assert last["finish_reason"] == "length" and last["delta"]["content"]
    used = json.loads(usage_chunk(prompt, COMPLETIONS, 3, 0))["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"]) == (2, 3)
    assert completion(prompt, CHAT, 3, 0)["choices"][0]["message"]["content"] == " sim" * 3
    assert len(embedding(prompt)["data"]) == 1 and len(scores(prompt)["results"]) == 1


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 50))
def test_requests_are_read_whole_or_not_at_all(body: bytes, chunked: bool, size: int) -> None:
    if chunked:
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
        head = b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    else:
        framed, head = body, b"POST /v1/x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    whole = bytearray(head + framed)
    assert request_in(whole + b"GET") == (Asked("POST", "/v1/x", body), len(whole))
    for cut in (1, len(head) // 2, len(whole) - 1):
        assert request_in(whole[:cut]) is None


@pytest.mark.parametrize("text", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n", b"a" * 70_000])
def test_what_is_no_http_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        request_in(bytearray(text))


def test_metrics_have_vllms_names() -> None:
    engine, figures = live(), Figures()
    engine.submit([], 100, 4, 0.0)
    figures.done(0.03, 0.1, 4, 100, 0.13)
    text = page({"names": ["m"]}, engine, figures)
    assert 'vllm:num_requests_running{engine="0",model_name="m"} 1' in text
    assert 'num_gpu_blocks="401"' in text and 'simulated="true"' in text
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m",le="0.04"} 1' in text
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m",le="0.02"} 0' in text
    assert 'vllm:request_success_total{engine="0",model_name="m",finished_reason="length"} 1' in text


def plan() -> Plan:
    return rag_plan()


def test_faults_are_read_for_nodes_and_instances() -> None:
    node = plan().instances[0].nodes[0]
    on_it = tuple(i.id for i in plan().on_node(node))
    assert faults(plan(), "kill", [f"{node}@30s"]) == [Fault("kill", on_it, 30.0)]
    one = plan().instances[0].id
    assert faults(plan(), "freeze", [f"{one}@1.5s+10s"]) == [Fault("freeze", (one,), 1.5, 10.0)]
    assert faults(plan(), "slow", [f"{one}@0s+5s:4x"]) == [Fault("slow", (one,), 0.0, 5.0, 4.0)]


def test_faults_say_what_they_do() -> None:
    assert str(Fault("kill", ("a", "b"), 30.0)) == "killed at 30 s: a, b"
    assert str(Fault("freeze", ("a",), 1.5, 10.0)) == "frozen at 1.5 s for 10 s: a"
    assert str(Fault("slow", ("a", "b", "c", "d"), 0.0)) == "3 × slower at 0 s: a, b, c, …"


def test_a_fault_after_the_last_request_is_refused() -> None:
    require_within([Fault("kill", ("a",), 29.9)], 30.0)
    with pytest.raises(InputError, match="sent by 30 s"):
        require_within([Fault("kill", ("a",), 1.0), Fault("kill", ("a",), 30.0)], 30.0)


@pytest.mark.parametrize("text", ["a800-0", "@30s", "x@30", "x@30s:3x", "x@30s+5s", "x@..s"])
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        faults(plan(), "kill", [text.replace("x@", f"{plan().instances[0].id}@")])


def test_unknown_names_are_told_with_their_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Nearest"):
        faults(plan(), "kill", [plan().instances[0].id + "x@30s"])
