"""The middleware against an application that is played by hand, message by message."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llmfleet.launch.remote.hold_headers import HoldHeaders

Message = dict[str, Any]
SSE = [(b"Content-Type", b"text/event-stream; charset=utf-8"), (b"x-request-id", b"7")]
REFUSED = {"error": {"message": "too many", "type": "ServiceUnavailable", "param": None, "code": 503}}


def start(status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Message:
    return {"type": "http.response.start", "status": status, "headers": SSE if headers is None else headers}


def body(data: bytes = b"", *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sent_after_each(messages: list[Message], scope_type: str = "http") -> list[list[Message]]:
    """What the client got by the time the application had sent each message."""
    seen: list[list[Message]] = []
    out: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
            seen.append(list(out))

    async def send(message: Message) -> None:
        out.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(HoldHeaders(app)({"type": scope_type}, receive, send))
    return seen


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def test_headers_wait_for_the_first_event() -> None:
    first, second, end = body(event({"n": 1})), body(event({"n": 2})), body(more=False)
    seen = sent_after_each([start(), body(), first, second, end])
    assert seen == [[], [], [start(), first], [start(), first, second], [start(), first, second, end]]


def test_an_event_in_pieces_is_held_until_it_is_whole() -> None:
    seen = sent_after_each([start(), body(b"data: {"), body(b'"n": 1}\n'), body(b"\ndata: x"), body(more=False)])
    assert seen[:3] == [[], [], []]
    assert seen[3] == [start(), body(b'data: {"n": 1}\n\ndata: x')]


def test_comments_are_not_the_first_event() -> None:
    seen = sent_after_each([start(), body(b": ping\n\n"), body(b": ping\n\n"), body(event(REFUSED))])
    assert seen[2] == []
    assert seen[3][0]["status"] == 503


def test_an_answer_in_one_piece_is_untouched() -> None:
    messages = [
        start(201, [(b"content-type", b"application/json"), (b"content-length", b"2")]),
        body(b"{}", more=False),
    ]
    assert sent_after_each(messages)[-1] == messages


def test_other_streams_wait_for_their_first_byte_only() -> None:
    plain = start(200, [(b"content-type", b"text/plain")])
    assert sent_after_each([plain, body(b""), body(b"a")])[1:] == [[], [plain, body(b"a")]]


def test_an_answer_without_body_is_sent() -> None:
    empty = [start(204, []), body(more=False)]
    assert sent_after_each(empty)[-1] == empty
    assert sent_after_each([start(), body(more=False)])[-1] == [start(), body(more=False)]


@pytest.mark.parametrize("code", [400, 429, 503, 599])
@pytest.mark.parametrize("prefix", [b"", b": comment\n\n", b"event: error\r\n"])
def test_a_first_event_that_is_an_error_becomes_its_status(code: int, prefix: bytes) -> None:
    error = {"error": {**REFUSED["error"], "code": code}}
    after = [body(b"data: [DONE]\n\n"), body(more=False)]
    out = sent_after_each([start(), body(prefix + event(error)), *after])[-1]
    assert [m["type"] for m in out] == ["http.response.start", "http.response.body"]
    assert out[0]["status"] == code
    headers = dict(out[0]["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-request-id"] == b"7"
    assert int(headers[b"content-length"]) == len(out[1]["body"])
    assert json.loads(out[1]["body"]) == error


@pytest.mark.parametrize(
    "data",
    [
        {"error": "broken"},
        {"error": {"code": "x"}},
        {"error": {"code": 200}},
        {"error": {"code": 1000}},
        {"error": {"code": None}},
        {"error": None},
        {"choices": []},
        [],
        7,
        None,
    ],
)
def test_other_first_events_pass(data: Any) -> None:
    assert sent_after_each([start(), body(event(data))])[-1] == [start(), body(event(data))]


def test_a_later_error_passes() -> None:
    messages = [start(), body(event({"n": 1})), body(event(REFUSED)), body(more=False)]
    assert sent_after_each(messages)[-1] == messages


def test_an_error_that_has_a_status_already_passes() -> None:
    messages = [start(500), body(event(REFUSED), more=False)]
    assert sent_after_each(messages)[-1] == messages


def test_a_stream_without_end_of_event_is_not_held_for_ever() -> None:
    seen = sent_after_each([start(), body(b"data: " + b"x" * (1 << 16))])
    assert len(seen[-1]) == 2


def test_websockets_and_lifespan_pass() -> None:
    messages = [{"type": "lifespan.startup.complete"}]
    assert sent_after_each(messages, "lifespan")[-1] == messages


def test_other_response_messages_release_the_headers() -> None:
    path = {"type": "http.response.pathsend", "path": "/x"}
    assert sent_after_each([start(), path])[-1] == [start(), path]


def test_an_application_that_fails_while_held_has_sent_nothing() -> None:
    """The server then answers 500 by itself, and a router may try elsewhere."""
    out: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(start())
        raise RuntimeError("engine died")

    async def send(message: Message) -> None:
        out.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(RuntimeError):
        asyncio.run(HoldHeaders(app)({"type": "http"}, receive, send))
    assert out == []


def test_the_application_sees_the_client_leave() -> None:
    """`receive` is passed on, so that a client that leaves while its answer is held is noticed."""
    got: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(start())
        got.append(await receive())

    async def send(message: Message) -> None:
        raise AssertionError("nothing may be sent")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(HoldHeaders(app)({"type": "http"}, receive, send))
    assert got == [{"type": "http.disconnect"}]
