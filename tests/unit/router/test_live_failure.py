"""What clients do not see when instances die, fill up or are drained, through a real Envoy."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

import pytest
from fleets import with_weights, with_window
from running import CHAT, OPTIONS, RunningRouter, until
from test_live_balance import body

from llmfleet.planner.plan import Plan

pytestmark = pytest.mark.live

MAIN = ("chat-a", "chat-b", "chat-c")


@contextmanager
def stopped(router: RunningRouter, *names: str) -> Iterator[None]:
    for name in names:
        router.engines[name].stop()
    try:
        yield
    finally:
        for name in names:
            router.engines[name].start()


def test_killed_under_load(router: RunningRouter) -> None:
    """One of three dies with requests on it: they and all later ones are answered, soon by the other two alone."""
    answers = []
    load = threading.Thread(target=lambda: answers.extend(router.many([body(f"load {n}") for n in range(600)])))
    load.start()
    until(lambda: router.engines["chat-a"].received > 50, "load on chat-a")
    with stopped(router, "chat-a"):
        load.join()
    assert {a.status for a in answers} == {200}
    assert {a.instance for a in answers[400:]} == {"chat-b", "chat-c"}
    assert max(int(a.headers["x-llmfleet-attempts"]) for a in answers) > 1
    until(lambda: router.traffic()["chat-a"].healthy, "chat-a in use again")
    until(lambda: any(router.chat(f"back {n}").instance == "chat-a" for n in range(20)), "requests on chat-a again")


def test_waiting_requests_survive(router: RunningRouter) -> None:
    """Requests that wait for their first byte on an instance that dies are answered by another."""
    router.drain("chat-b", "chat-c")
    router.engines["chat-a"].hold.clear()
    answers = []
    load = threading.Thread(target=lambda: answers.extend(router.many([body(f"wait {n}") for n in range(8)])))
    load.start()
    until(lambda: router.engines["chat-a"].received == 8, "8 requests on chat-a")
    router.drain()
    with stopped(router, "chat-a"):
        load.join()
    assert [a.status for a in answers] == [200] * 8
    assert {a.instance for a in answers} <= {"chat-b", "chat-c"}


def test_one_left_of_three_takes_all(router: RunningRouter) -> None:
    with stopped(router, "chat-a", "chat-b"):
        questions = [body(f"one left {n}") for n in range(60)]
        until(
            lambda: {a.instance for a in router.many(questions)} == {"chat-c"},
            "no request goes to the dead or the fallback",
        )


def test_all_dead_spills_to_spare_then_fallback(router: RunningRouter) -> None:
    with stopped(router, *MAIN):
        until(lambda: not any(router.traffic()[n].healthy for n in MAIN), "main is out")
        until(lambda: router.chat("a short one").instance == "chat-long", "the spare pool takes over")
        spare = router.chat("a short one")
        assert "x-llmfleet-degraded" not in spare.headers
        with stopped(router, "chat-long"):
            until(lambda: not router.traffic()["chat-long"].healthy, "long is out")
            until(lambda: router.chat("a short one").headers["x-llmfleet-attempts"] == "1", "the fallback takes over")
            degraded = router.chat("a short one")
            assert (degraded.status, degraded.instance) == (200, "lite-a")
            assert degraded.headers["x-llmfleet-degraded"] == "true"
            assert degraded.headers["x-llmfleet-pool"] == "chat-lite/fallback"
            assert degraded.json["model"] == "chat"


@pytest.mark.parametrize("status", [429, 503])
def test_overload_spills_to_the_long_pool_then_to_the_fallback(router: RunningRouter, status: int) -> None:
    for name in MAIN:
        router.engines[name].status = status
    answers = router.many([body(f"overload {n}") for n in range(40)])
    assert {(a.status, a.instance, a.headers.get("x-llmfleet-degraded")) for a in answers} == {(200, "chat-long", None)}
    assert {a.headers["x-llmfleet-attempts"] for a in answers} == {"4"}
    router.engines["chat-long"].status = status
    answers = router.many([body(f"overload {n}") for n in range(40)])
    assert {(a.status, a.instance, a.headers["x-llmfleet-degraded"]) for a in answers} == {(200, "lite-a", "true")}
    assert {a.headers["x-llmfleet-attempts"] for a in answers} == {"5"}
    assert all(router.traffic()[name].healthy for name in MAIN)  # busy is not broken


def test_one_full_instance_is_passed_over(router: RunningRouter) -> None:
    router.engines["chat-a"].status = 503
    answers = router.many([body(f"passed {n}") for n in range(40)])
    assert {a.status for a in answers} == {200}
    assert {a.instance for a in answers} <= {"chat-b", "chat-c"}


def test_large_bodies_are_tried_elsewhere_too(router: RunningRouter) -> None:
    router.drain("chat-c")
    router.engines["chat-a"].status = 503
    answers = router.many([body(f"{n} " + "x" * (1 << 20), model="chat") for n in range(6)], workers=2)
    assert {(a.status, a.instance) for a in answers} == {(200, "chat-long")}  # 260 000 tokens
    router.engines["chat-long"].status = 503
    answers = router.many([body(f"{n} " + "x" * (1 << 20), model="chat") for n in range(6)], workers=2)
    assert {(a.status, a.instance) for a in answers} == {(200, "chat-b")}


def test_a_client_that_leaves_frees_its_instance(router: RunningRouter) -> None:
    for engine in router.engines.values():
        engine.hold.clear()
    connections = [open_stream(router, n) for n in range(6)]
    streams = [connection.getresponse() for connection in connections]
    assert sum(t.active for t in router.traffic().values()) == 6
    for stream, connection in zip(streams, connections, strict=True):
        stream.close()
        connection.close()
    until(lambda: sum(t.active for t in router.traffic().values()) == 0, "nothing running")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_everything_full_says_so(router: RunningRouter, status: int, stream: bool) -> None:
    for name in (*MAIN, "chat-long", "lite-a"):
        router.engines[name].status = status
    answer = router.chat(stream=stream)
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("server_error", "overloaded")
    assert error["message"] == 'All instances of "chat" are full. Try again in a moment.'


def test_nobody_left(router: RunningRouter) -> None:
    with stopped(router, "embed-a"):
        until(lambda: not router.traffic()["embed-a"].healthy, "embed is out")
        answer = router.post({"model": "embed", "input": "x"}, "/v1/embeddings")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json["error"]["message"] == "no healthy upstream"


def test_long_prompts_never_go_where_they_do_not_fit(router: RunningRouter) -> None:
    with stopped(router, "chat-long"):
        until(lambda: not router.traffic()["chat-long"].healthy, "long is out")
        assert router.chat("word " * 20_000).instance in MAIN  # 16 384 tokens are more than the limit of 16 000


def test_errors_of_the_engine_are_not_repeated(router: RunningRouter) -> None:
    for name in MAIN:
        router.engines[name].status = 400
    answer = router.chat()
    assert (answer.status, answer.headers["x-llmfleet-attempts"]) == (400, "1")


def test_drain_cuts_no_stream(router: RunningRouter) -> None:
    """Streams that run on an instance end properly after it is drained; new requests go elsewhere at once."""
    for engine in router.engines.values():
        engine.hold.clear()
    connections = [open_stream(router, n) for n in range(20)]
    streams = [connection.getresponse() for connection in connections]
    homes = [stream.getheader("x-llmfleet-instance") for stream in streams]
    assert "chat-a" in homes
    router.drain("chat-a")
    for name in ("chat-b", "chat-c"):
        router.engines[name].hold.set()
    new = router.many([body(f"after drain {n}") for n in range(60)])
    assert {a.status for a in new} == {200}
    assert {a.instance for a in new} <= {"chat-b", "chat-c"}
    assert router.traffic()["chat-a"].active == homes.count("chat-a")
    router.engines["chat-a"].hold.set()
    for stream in streams:
        assert stream.read().endswith(b"data: [DONE]\n\n")
    for connection in connections:
        connection.close()
    until(lambda: router.traffic()["chat-a"].active == 0, "nothing left on chat-a")
    assert router.traffic()["chat-a"].draining


@pytest.mark.parametrize("change", ["weights", "classifier", "clusters", "a model more", "an instance less"])
def test_no_change_cuts_a_stream(router: RunningRouter, change: str) -> None:
    for engine in router.engines.values():
        engine.hold.clear()
    connections = [open_stream(router, n) for n in range(12)]
    streams = [connection.getresponse() for connection in connections]
    options = {
        "clusters": replace(OPTIONS, balance_percent=125),
    }.get(change, OPTIONS)
    router.write(changed_plan(router.plan, change), options=options)
    for engine in router.engines.values():
        engine.hold.set()
    answers = router.many([body(f"{change} {n}") for n in range(60)])
    assert {a.status for a in answers} == {200}
    if change == "a model more":
        until(lambda: router.chat(model="more").status == 200, "the new name is known")
    if change == "an instance less":
        until(lambda: "chat-a" not in router.traffic(), "chat-a is gone")
    for stream, connection in zip(streams, connections, strict=True):
        assert stream.read().endswith(b"data: [DONE]\n\n")
        connection.close()


def changed_plan(plan: Plan, change: str) -> Plan:
    chat = plan.services[0]
    if change == "weights":
        return with_weights(plan, chat_a=1, chat_b=7)
    if change == "classifier":
        return with_window(plan, 64)
    if change == "a model more":
        return replace(plan, services=(*plan.services, replace(chat, name="more", fallback=None)))
    if change == "an instance less":
        less = replace(chat, pools=(replace(chat.pools[0], instances=("chat-b", "chat-c")), chat.pools[1]))
        return replace(plan, services=(less, *plan.services[1:]))
    return plan


def test_all_drained_spills(router: RunningRouter) -> None:
    router.drain(*MAIN, "chat-long")
    assert router.chat().instance == "lite-a"


def open_stream(
    router: RunningRouter, n: int, headers: Mapping[str, str] = MappingProxyType({})
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=30)
    message = {"role": "user", "content": f"stream {n}"}
    body = json.dumps({"model": "chat", "messages": [message], "stream": True})
    connection.request("POST", CHAT, body, dict(headers))
    return connection
