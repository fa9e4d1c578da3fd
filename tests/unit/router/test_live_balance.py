"""Shares, affinity and the bound, through a real Envoy."""

from __future__ import annotations

import json
import threading
from collections import Counter
from math import ceil

import pytest
from fleets import with_weights
from running import CHAT, RunningRouter, until

pytestmark = pytest.mark.live


def body(first: str, *more: tuple[str, str], model: str = "chat") -> bytes:
    messages = [{"role": "user", "content": first}, *({"role": role, "content": text} for role, text in more)]
    return json.dumps({"model": model, "messages": messages}).encode()


def shares(router: RunningRouter, requests: int, name: str) -> dict[str, float]:
    """Part of the requests, each with a prefix of its own, that each instance took. Few at a time: no bound is met."""
    answers = router.many([body(f"{name} {n}") for n in range(requests)], workers=2)
    assert {a.status for a in answers} == {200}
    return {instance: count / requests for instance, count in Counter(a.instance for a in answers).items()}


def test_shares_follow_weights_and_change_live(router: RunningRouter) -> None:
    found = shares(router, 1500, "question")
    for instance, weight in {"chat-a": 100 / 175, "chat-b": 50 / 175, "chat-c": 25 / 175}.items():
        assert abs(found[instance] - weight) < 0.05, found
    router.write(with_weights(router.plan, chat_a=1, chat_b=1, chat_c=98))
    until(lambda: router.traffic()["chat-c"].weight == 98, "new weights")
    assert shares(router, 200, "another")["chat-c"] > 0.9


def test_a_conversation_stays_where_it_began(router: RunningRouter) -> None:
    for n in range(20):
        first = router.request("POST", CHAT, body(f"conversation {n}")).instance
        later = router.request("POST", CHAT, body(f"conversation {n}", ("assistant", f"a{n}"), ("user", f"b{n}")))
        by_id = router.request("POST", CHAT, body(f"conversation {n}", model="Qwen/Qwen1.5-72B-Chat"))
        assert (later.instance, by_id.instance) == (first, first)


def test_requests_on_one_document_go_together(router: RunningRouter) -> None:
    """The document fills the window, so that the question does not count."""
    homes = set()
    for n in range(12):
        document = f"document {n}: " + "文書" * 700
        asked = [
            router.request("POST", CHAT, body(f"{document} {question}")).instance for question in ("who?", "when?")
        ]
        assert asked[0] == asked[1]
        homes.add(asked[0])
    assert len(homes) > 1


def test_a_hot_prefix_is_bounded_by_weight(router: RunningRouter) -> None:
    """70 requests of one prefix, none finished: nobody runs more than 1.6 times its weight's part."""
    for engine in router.engines.values():
        engine.hold.clear()
    try:
        threads = [threading.Thread(target=router.request, args=("POST", CHAT, body("the same"))) for _ in range(70)]
        for n, thread in enumerate(threads, 1):
            thread.start()
            until(lambda n=n: sum(e.received for e in router.engines.values()) == n, f"{n} requests arrived")
        until(lambda: sum(t.active for t in router.traffic().values()) == 70, "all 70 on instances")
        running = {name: t.active for name, t in router.traffic().items()}
    finally:
        for engine in router.engines.values():
            engine.hold.set()
    for thread in threads:
        thread.join()
    for instance, weight in {"chat-a": 100, "chat-b": 50, "chat-c": 25}.items():
        assert running[instance] <= ceil(70 * 1.6 * weight / 175) + 1, running
