"""The last look where clients need keys: none is sent about, the door must be shut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmfleet.launch.nodes.engine_load import RouterLoad
from llmfleet.launch.phases import verify
from llmfleet.planner.errors import HealthError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import RouterPlan

URL = "http://10.0.0.{}:8080/v1/models"


def session(keys_file: str | None) -> SimpleNamespace:
    plan = SimpleNamespace(
        services=(SimpleNamespace(name="chat"),), router=RouterPlan("head", "10.0.0.1", 8080, 9901, ("h2", "h3"))
    )
    inventory = SimpleNamespace(router=SimpleNamespace(keys_file=keys_file, tls=None))
    fleet, addresses = SimpleNamespace(plan=plan, inventory=inventory), {"head": "10.0.0.1", "h2": "10.0.0.2"}
    return SimpleNamespace(
        fleet=fleet, addresses=addresses, transports={"head": None, "h2": None}, node=lambda _: Node(name="n", host="n")
    )


@pytest.mark.parametrize(
    ("keys_file", "status", "says"),
    [
        ("keys", 401, None),
        ("keys", 200, "HTTP status 200 without a key instead of 401"),
        ("keys", 0, "HTTP status 0 without a key"),
        (None, 200, None),
        (None, 401, "does not list chat"),
    ],
)
def test_verify(monkeypatch: pytest.MonkeyPatch, keys_file: str | None, status: int, says: str | None) -> None:
    body = '{"data": [{"id": "chat"}]}' if status == 200 else ""
    monkeypatch.setattr(verify, "ANSWER_WITHIN_S", 0.0)
    asked = []

    def fetch(_: object, node: str, url: str) -> SimpleNamespace:
        asked.append((node, url))
        return SimpleNamespace(status=status, body=body)

    monkeypatch.setattr(verify, "fetch_on", fetch)
    monkeypatch.setattr(verify, "loads_at", lambda *_: {"chat-a": RouterLoad()})
    instances = [SimpleNamespace(id="chat-a")]
    if says is None:
        verify.verify(session(keys_file), instances)  # type: ignore[arg-type]
        assert asked == [("head", URL.format(1)), ("h2", URL.format(2))], "each router that is reached"
        return
    with pytest.raises(HealthError, match=says):
        verify.verify(session(keys_file), instances)  # type: ignore[arg-type]
