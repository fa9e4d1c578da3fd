"""The clients of the lab see what goes wrong: each kind of failure, against a server that fails on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.lab.load import Load

pytestmark = pytest.mark.lab
TOKEN = {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
LAST = {"choices": [{"delta": {}, "finish_reason": "length"}]}
WHOLE = {"choices": [{"message": {"content": "a"}, "finish_reason": "length"}]}


def event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


STREAMS = {
    "good": event(TOKEN) + event(LAST) + b"data: [DONE]\n\n",
    "broken off": event(TOKEN),
    "without finish reason": event(TOKEN) + b"data: [DONE]\n\n",
    "with an error": event({"error": {"code": 503}}) + b"data: [DONE]\n\n",
}


@contextmanager
def server(status: int, stream: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("x-llmfleet-instance", "chat-h1-0")
            self.end_headers()
            self.wfile.write(stream if asked["stream"] else json.dumps(WHOLE).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()
            thread.join()


def kinds(load: Load) -> set[bool]:
    """Which have ended: streams, plain answers, or both."""
    return {request.streaming for request in list(load.requests)}


def test_good_answers_are_counted_by_who_gave_them() -> None:
    with server(200, STREAMS["good"]) as url, Load(url, "chat", clients=4, seconds=30) as load:
        while (len(load.good) < 20 or len(kinds(load)) < 2) and time.monotonic() < load.deadline:
            time.sleep(0.02)
        log = load.stop()
    assert len(log) == len(load.good) == len(load.answered_by("chat-h1-0")) >= 20
    assert kinds(load) == {True, False}
    assert not load.answered_by("chat-h1-0", after=max(request.ended for request in log))


@pytest.mark.parametrize("kind", ["broken off", "without finish reason", "with an error"])
def test_a_stream_that_does_not_end_well_is_cut(kind: str) -> None:
    with server(200, STREAMS[kind]) as url, Load(url, "chat", clients=2, seconds=30) as load:
        while not (load.cut and load.good) and time.monotonic() < load.deadline:
            time.sleep(0.02)
        log = load.stop()
    assert load.cut and load.good and all(request.streaming for request in load.cut)
    assert not load.failed
    assert len(load.good) + len(load.cut) == len(log)


def test_refusals_are_failures() -> None:
    with server(503, b"full") as url, Load(url, "chat", clients=2, limit=10, seconds=30) as load:
        with pytest.raises(TimeoutError, match="HTTP 503"):
            load.wait_for(1, seconds=2)
        log = load.stop()
    assert log and len(load.failed) == len(log)
    assert {request.status for request in log} == {503}


def test_no_server_is_a_failure_and_the_wait_says_so() -> None:
    nobody = Load("http://127.0.0.1:9", "chat", clients=2, limit=4, seconds=5)
    with nobody as load, pytest.raises(TimeoutError, match="ConnectError"):
        load.wait_for(1, seconds=2)
    assert load.failed and {request.status for request in load.failed} == {None}
