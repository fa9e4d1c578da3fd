"""Low priority gives way to all other requests, through a real Envoy."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from fleets import with_places
from running import CHAT, RunningRouter, until
from test_live_balance import body
from test_live_caps import held
from test_live_failure import MAIN, open_stream

pytestmark = pytest.mark.live

LOW = {"x-llmfleet-priority": "low"}


def ask(router: RunningRouter, text: str, headers: dict[str, str]) -> tuple[int, str, str]:
    answer = router.request("POST", CHAT, body(text), headers)
    return answer.status, answer.instance, answer.headers.get("x-llmfleet-degraded", "")


def places(router: RunningRouter, **counts: int) -> None:
    router.write(with_places(router.plan, **counts))
    until(lambda: router.low_places("chat.main") == sum(counts.values()) // 2, "new bounds")
    until(lambda: router.chat().instance in MAIN, "the new cluster is in use")
    for engine in router.engines.values():
        engine.calm()


def test_low_priority_holds_half_of_the_places(router: RunningRouter) -> None:
    """Of 20 requests, 4 may run on the 8 places; the others go to the fallback, while ordinary ones still get in."""
    places(router, chat_a=4, chat_b=2, chat_c=2)
    with ThreadPoolExecutor(28) as pool:
        with held(router):
            low = [pool.submit(ask, router, f"low {n}", LOW) for n in range(20)]
            until(lambda: sum(e.received for e in router.engines.values()) == 20, "all low ones on engines")
            usual = [pool.submit(ask, router, f"usual {n}", {}) for n in range(8)]
            until(lambda: sum(e.received for e in router.engines.values()) == 28, "all on engines")
        seen = Counter((status, degraded) for status, _, degraded in (f.result() for f in low))
        assert seen == {(200, ""): 4, (200, "true"): 16}
        assert {f.result()[1] for f in usual} <= set(MAIN)


@pytest.mark.parametrize("status", [429, 503])
def test_low_priority_goes_to_the_fallback_at_the_first_refusal(router: RunningRouter, status: int) -> None:
    for name in ("chat-a", "chat-b"):
        router.engines[name].status = status
    questions = [body(f"question {n}") for n in range(30)]
    assert {a.instance for a in router.many(questions, workers=1)} == {"chat-c"}  # more at once would meet its bound
    low = router.many(questions, workers=1, headers=LOW)
    assert {a.status for a in low} == {200}
    spilled = [a for a in low if a.instance == "lite-a"]
    assert len(spilled) > 15
    assert {a.headers["x-llmfleet-attempts"] for a in spilled} == {"2"}
    assert {a.instance for a in low} == {"chat-c", "lite-a"}


def test_low_priority_changes_nothing_else(router: RunningRouter) -> None:
    for n in range(20):
        usual = router.request("POST", CHAT, body(f"question {n}"))
        low = router.request("POST", CHAT, body(f"question {n}"), LOW)
        assert (low.instance, low.json["engine"]) == (usual.instance, usual.instance)
        assert (low.headers["x-llmfleet-pool"], low.headers["x-llmfleet-attempts"]) == ("chat/main", "1")
        assert low.json["headers"]["x-fleet-priority"] == "low"
        assert "x-llmfleet-priority" not in usual.json["headers"]
    assert router.chat("word " * 20_000).instance == "chat-long"
    assert router.request("POST", CHAT, body("word " * 20_000), LOW).instance == "chat-long"
    assert router.post({"model": "embed", "input": "x"}, "/v1/embeddings", LOW).instance == "embed-a"


def test_low_priority_without_a_fallback_waits_and_is_refused(router: RunningRouter) -> None:
    router.engines["embed-a"].status = 503
    answer = router.post({"model": "embed", "input": "x"}, "/v1/embeddings", LOW)
    assert (answer.status, answer.json["error"]["code"]) == (429, "overloaded")


def test_other_words_are_ordinary(router: RunningRouter) -> None:
    for word in ("high", "LOW", "", "lower"):
        answer = router.request("POST", CHAT, body("x"), {"x-llmfleet-priority": word})
        assert (answer.status, answer.json["headers"].get("x-fleet-priority", "")) == (200, word)
    forged = router.request("POST", CHAT, body("x"), {"x-aside": "low"})
    assert "x-llmfleet-priority" not in forged.json["headers"]


def test_streams_of_low_priority_survive_changes(router: RunningRouter) -> None:
    with held(router):
        connections = [open_stream(router, n, LOW) for n in range(6)]
        streams = [connection.getresponse() for connection in connections]
        router.write(with_places(router.plan, chat_a=9, chat_b=9, chat_c=2))
        assert router.low_places("chat.main") == 10
    for answer, connection in zip(streams, connections, strict=True):
        assert answer.read().endswith(b"data: [DONE]\n\n")
        connection.close()
