"""One router process takes over from another: nothing is refused, nothing is cut."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections import Counter

import pytest
from running import CHAT, RunningRouter, until

from llmfleet.launch.router.state import parse_server, server_url

pytestmark = pytest.mark.live


def epoch(router: RunningRouter) -> int | None:
    try:
        with urllib.request.urlopen(server_url(router.admin_port), timeout=5) as answer:
            life = parse_server(answer.read().decode())
            return None if life is None else life.epoch
    except OSError:
        return None


def hot_restart(router: RunningRouter) -> None:
    before = epoch(router)
    assert before is not None
    router.process.send_signal(signal.SIGHUP)
    until(lambda: epoch(router) == before + 1, "the next process")


def test_requests_and_streams_go_on(router: RunningRouter) -> None:
    for engine in router.engines.values():
        engine.hold.clear()  # streams wait after their first event
    streams = [Stream(router, n) for n in range(8)]
    until(lambda: sum(e.received for e in router.engines.values()) == 8, "streams begun")
    done, seen = threading.Event(), Counter[int]()

    def work() -> None:
        while not done.is_set():
            seen[router.get("/v1/models").status] += 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    hot_restart(router)
    router.process.send_signal(signal.SIGHUP)  # ignored while the first one still has streams of its own
    done.set()
    for worker in workers:
        worker.join()
    for engine in router.engines.values():
        engine.hold.set()
    assert [stream.text() for stream in streams] == [ALL] * 8
    assert set(seen) == {200} and seen[200] > 20
    assert router.chat().status == 200


ALL = "".join(f'data: {{"n": {n}}}\n\n' for n in range(5)) + "data: [DONE]\n\n"


class Stream:
    """A streamed request, read as a whole once the engine lets go."""

    def __init__(self, router: RunningRouter, n: int) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": f"stream {n}"}], "stream": True}
        self.answer = b""
        self.thread = threading.Thread(target=self._read, args=(router, json.dumps(body).encode()))
        self.thread.start()

    def _read(self, router: RunningRouter, body: bytes) -> None:
        self.answer = router.request("POST", CHAT, body).body

    def text(self) -> str:
        self.thread.join(20)
        return self.answer.decode()
