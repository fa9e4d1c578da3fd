"""Instances whose engines take any number of requests hold no more than planned; what is above goes elsewhere."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fleets import with_caps
from running import CHAT, Answer, RunningRouter, until
from test_live_balance import body
from test_live_failure import MAIN, open_stream, stopped

from llmfleet.launch.router.state import clusters_url

pytestmark = pytest.mark.live

CAPS = {"chat_a": 4, "chat_b": 2, "chat_c": 1}


@contextmanager
def held(router: RunningRouter) -> Iterator[None]:
    """Requests wait in the engines."""
    for engine in router.engines.values():
        engine.hold.clear()
    try:
        yield
    finally:
        for engine in router.engines.values():
            engine.hold.set()


def cap(router: RunningRouter, **caps: int) -> None:
    router.write(with_caps(router.plan, **caps))
    until(lambda: gated(router) == {name.replace("_", "-") for name in caps}, "gates")
    until(lambda: router.chat().instance in MAIN, "the new endpoints are in use")
    for engine in router.engines.values():
        engine.calm()


def gated(router: RunningRouter) -> set[str]:
    with urllib.request.urlopen(clusters_url(router.admin_port), timeout=5) as answer:
        clusters = json.load(answer)["cluster_statuses"]
    return {c["name"].removeprefix("at.") for c in clusters if c["name"].startswith("at.")}


def test_no_more_than_planned(router: RunningRouter) -> None:
    """20 requests of one prefix: the long pool takes 3 of what is above 4 + 2 + 1, the fallback the rest."""
    cap(router, **CAPS, chat_long=3)
    with ThreadPoolExecutor(20) as pool:
        with held(router):
            answers = [pool.submit(router.request, "POST", CHAT, body("the same")) for _ in range(20)]
            until(lambda: sum(e.received for e in router.engines.values()) == 20, "all on engines")
            assert [router.engines[n].received for n in MAIN] == [4, 2, 1]
            assert {n: t.active for n, t in router.traffic().items() if n in MAIN} == {
                "chat-a": 4,
                "chat-b": 2,
                "chat-c": 1,
            }
        found = [a.result() for a in answers]
    assert {a.status for a in found} == {200}
    assert Counter(a.instance for a in found) == {"chat-a": 4, "chat-b": 2, "chat-c": 1, "chat-long": 3, "lite-a": 10}
    assert all((a.instance == "lite-a") == ("x-llmfleet-degraded" in a.headers) for a in found)


def test_affinity_and_what_clients_see_stay(router: RunningRouter) -> None:
    questions = [body(f"question {n}") for n in range(40)]
    before = [a.instance for a in router.many(questions, workers=1)]
    cap(router, **CAPS)
    answers = router.many(questions, workers=1)
    assert [a.instance for a in answers] == before
    for answer in answers:
        assert answer.json["engine"] == answer.instance
        assert (answer.headers["x-llmfleet-pool"], answer.headers["x-llmfleet-attempts"]) == ("chat/main", "1")
        assert "x-llmfleet-at" not in answer.json["headers"]
    assert {n: router.traffic()[n].address for n in MAIN} == {n: f"127.0.0.1:{router.engines[n].port}" for n in MAIN}


def test_everything_full_says_so(router: RunningRouter) -> None:
    """Nobody refuses but the router itself."""
    cap(router, **CAPS, chat_long=1, lite_a=1)
    with ThreadPoolExecutor(9) as pool:
        with held(router):
            running = [pool.submit(router.request, "POST", CHAT, body("the same")) for _ in range(9)]
            until(lambda: sum(e.received for e in router.engines.values()) == 9, "9 on engines")
            refused = router.chat("one more")
        assert {a.result().status for a in running} == {200}
    assert (refused.status, refused.json["error"]["code"]) == (429, "overloaded")
    assert refused.headers["retry-after"] == "2"
    assert router.chat().status == 200


def test_killed_under_load(router: RunningRouter) -> None:
    cap(router, chat_a=50, chat_b=50, chat_c=50)
    answers: list[Answer] = []
    load = threading.Thread(target=lambda: answers.extend(router.many([body(f"load {n}") for n in range(600)])))
    load.start()
    until(lambda: router.engines["chat-a"].received > 50, "load on chat-a")
    with stopped(router, "chat-a"):
        load.join()
    assert {a.status for a in answers} == {200}
    until(lambda: router.traffic()["chat-a"].healthy, "chat-a in use again")


def test_new_caps_and_gates_cut_no_stream(router: RunningRouter) -> None:
    cap(router, **CAPS)
    with held(router):
        connections = [open_stream(router, n) for n in range(12)]
        streams = [connection.getresponse() for connection in connections]
        router.write(with_caps(router.plan, chat_a=9, chat_b=9))
        until(lambda: gated(router) == {"chat-a", "chat-b"}, "chat-c has no gate")
    assert {a.status for a in router.many([body(f"after {n}") for n in range(40)])} == {200}
    for answer, connection in zip(streams, connections, strict=True):
        assert answer.read().endswith(b"data: [DONE]\n\n")
        connection.close()
