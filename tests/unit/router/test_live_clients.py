"""Keys and limits of clients, through a real Envoy."""

from __future__ import annotations

import pytest
from running import CHAT, Answer, RunningRouter, until
from test_live_balance import body
from test_live_failure import open_stream

from llmfleet.launch.router.clients import ClientKey

pytestmark = pytest.mark.live

A, B, C = ClientKey("team-a", "sk-aaaaaaaa"), ClientKey("batch", "sk-bbbbbbbb", low=True), ClientKey("c", "sk-cccccccc")


def ask(router: RunningRouter, key: str, **headers: str) -> Answer:
    return router.request("POST", CHAT, body("x"), {"Authorization": f"Bearer {key}", **headers})


def allow(router: RunningRouter, *keys: ClientKey) -> None:
    router.write(router.plan, keys=keys)
    until(lambda: all(ask(router, k.key).status != 401 for k in keys) and router.chat().status == 401, "keys in force")


@pytest.fixture
def closed(router: RunningRouter) -> RunningRouter:
    allow(router, A, B)
    return router


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer sk-aaaaaaab"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic sk-aaaaaaaa"},
        {"x-llmfleet-client": "team-a"},
    ],
)
def test_who_has_no_key_is_told_so(closed: RunningRouter, headers: dict[str, str]) -> None:
    received = sum(e.received for e in closed.engines.values())
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/nothing")):
        answer = closed.request(method, path, body("x") if method == "POST" else None, headers)
        assert (answer.status, answer.headers["content-type"]) == (401, "application/json")
        error = answer.json["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert sum(e.received for e in closed.engines.values()) == received
    assert closed.get("/healthz").status == 200


def test_engines_see_the_client_and_not_its_key(closed: RunningRouter) -> None:
    for headers in ({"Authorization": f"Bearer {A.key}"}, {"x-api-key": A.key}):
        answer = closed.request("POST", CHAT, body("x"), headers)
        assert (answer.status, answer.json["headers"]["x-llmfleet-client"]) == (200, "team-a")
        assert answer.json["credentials"] == []
    assert ask(closed, A.key, **{"x-llmfleet-client": "other"}).json["headers"]["x-llmfleet-client"] == "team-a"


def test_without_keys_credentials_stop_here_too(router: RunningRouter) -> None:
    answer = router.request("POST", CHAT, body("x"), {"Authorization": "Bearer x", "x-api-key": "y"})
    assert (answer.status, answer.json["credentials"]) == (200, [])


def test_a_keys_priority(closed: RunningRouter) -> None:
    assert ask(closed, B.key).json["headers"]["x-fleet-priority"] == "low"
    assert ask(closed, B.key, **{"x-llmfleet-priority": "high"}).json["headers"]["x-fleet-priority"] == "low"
    assert "x-llmfleet-priority" not in ask(closed, A.key).json["headers"]
    assert ask(closed, A.key, **{"x-llmfleet-priority": "low"}).json["headers"]["x-fleet-priority"] == "low"


def test_limits(router: RunningRouter) -> None:
    """One in a thousand seconds, five in one: who has a limit is held to it, nobody else."""
    slow = ClientKey("slow", "sk-slowslow", low=True, rate=0.001)
    some = ClientKey("some", "sk-somesome", rate=5)
    allow(router, A)
    router.write(router.plan, keys=(A, slow, some))
    until(lambda: ask(router, slow.key).status == 429, "the limit in force")
    refused = ask(router, slow.key)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (refused.json["error"]["type"], refused.json["error"]["code"]) == ("requests", "rate_limit_exceeded")
    assert '"low/slow"' in refused.json["error"]["message"]
    until(lambda: 429 in {ask(router, some.key).status for _ in range(20)}, "more than five a second", 10)
    assert {ask(router, A.key).status for _ in range(30)} == {200}


def test_new_keys_cut_no_stream(router: RunningRouter) -> None:
    for engine in router.engines.values():
        engine.hold.clear()
    connections = [open_stream(router, n) for n in range(6)]
    streams = [connection.getresponse() for connection in connections]
    for engine in router.engines.values():
        engine.hold.set()
    allow(router, A)
    allow(router, A, C)
    router.write(router.plan, keys=(C,))
    until(lambda: ask(router, A.key).status == 401, "the old key is gone")
    assert ask(router, C.key).status == 200
    for answer, connection in zip(streams, connections, strict=True):
        assert answer.read().endswith(b"data: [DONE]\n\n")
        connection.close()


def test_no_key_is_logged(closed: RunningRouter) -> None:
    closed.request("POST", CHAT, body("x"), {"Authorization": f"Bearer {A.key}", "x-api-key": A.key})
    log = closed.folder / "log"
    seen = log.read_text().count('"path":"/v1/models"')
    closed.get("/v1/models")
    until(lambda: log.read_text().count('"path":"/v1/models"') > seen, "the last request is logged")
    assert '"key":"team-a"' in log.read_text()
    assert A.key not in log.read_text()
