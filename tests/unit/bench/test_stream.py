"""The client's reading of answers, however the network cuts them."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.launch.bench.client import address
from llmfleet.launch.bench.stream import Connection, Sample
from llmfleet.planner.errors import InputError

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
WORD = {"choices": [{"index": 0, "delta": {"content": " a"}}], "usage": None}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 90, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 32}},
}


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.sent += data

    def abort(self) -> None:
        pass


def events(*bodies: object) -> bytes:
    return b"".join(f"data: {json.dumps(b) if isinstance(b, dict) else b}\n\n".encode() for b in bodies)


def chunked(text: bytes, sizes: list[int]) -> bytes:
    out, at = b"", 0
    for size in [*sizes, len(text)]:
        part = text[at : at + size]
        out += b"%x\r\n%b\r\n" % (len(part), part) if part else b""
        at += size
    return out + b"0\r\n\r\n"


def heard(answer: bytes, cuts: list[int], *, close: bool = False) -> tuple[Sample, Connection]:
    async def run() -> tuple[Sample, Connection]:
        connection, sample = Connection(), Sample(due=0.0)
        connection.connection_made(Wire())
        task = asyncio.ensure_future(connection.ask(b"POST", sample))
        await asyncio.sleep(0)
        edges = sorted({0, *(c % (len(answer) + 1) for c in cuts), len(answer)})
        for start, end in pairwise(edges):
            connection.data_received(answer[start:end])
        if close:
            connection.connection_lost(None)
        await asyncio.wait_for(task, 1)
        return sample, connection

    return asyncio.run(run())


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"


@given(st.lists(st.integers(1, 60), max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_a_stream_is_the_same_however_it_is_cut(sizes: list[int], cuts: list[int]) -> None:
    body = chunked(events(ROLE, WORD, WORD, WORD, USAGE, "[DONE]"), sizes)
    told = b"x-llmfleet-instance: chat-a-0\r\nX-LLMFleet-Degraded: true\r\n\r\n"
    sample, connection = heard(STREAM + told + body, cuts)
    assert sample.ok and connection.usable
    assert (sample.parts, len(sample.gaps), sample.prompt, sample.answer, sample.cached) == (3, 2, 90, 3, 32)
    assert sample.sent <= sample.first <= sample.last
    assert (sample.instance, sample.degraded) == ("chat-a-0", True)


@given(st.lists(st.integers(0, 400), max_size=8))
def test_a_plain_answer_and_a_refusal(cuts: list[int]) -> None:
    body = json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": 2}}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    sample, _ = heard(head + body, cuts)
    assert sample.ok and (sample.prompt, sample.answer) == (7, 2)
    body = b'{"error": {"message": "full", "code": 503}}'
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert heard(head + body, cuts)[0].error == "HTTP 503 full"


@pytest.mark.parametrize(
    ("answer", "close", "said"),
    [
        (STREAM + b"\r\n" + chunked(events({"error": {"message": "gone", "code": 500}}), []), False, "gone"),
        (STREAM + b"\r\n" + chunked(events("[DONE]"), []), False, "ended without a token"),
        (STREAM + b"\r\n" + chunked(events(WORD), [])[:-5], True, "connection broken"),
        (STREAM + b"\r\nzz\r\n", False, "not HTTP"),
        (b"", True, "connection broken"),
    ],
)
def test_what_goes_wrong_is_said(answer: bytes, close: bool, said: str) -> None:
    assert said in heard(answer, [], close=close)[0].error


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    sample, connection = heard(head + events(WORD, WORD), [3, 80], close=True)
    assert sample.ok and sample.parts == 2 and not connection.usable


def test_addresses() -> None:
    assert address("http://10.0.0.1:8000/v1").url == "http://10.0.0.1:8000"
    assert address("https://host/base/").url == "https://host:443/base"
    for wrong in ("10.0.0.1:80", "ftp://x", "http://x:port", "http://"):
        with pytest.raises(InputError):
            address(wrong)
