"""The last look where clients need keys: none is sent about, the door must be shut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmfleet.launch.nodes.engine_load import RouterLoad
from llmfleet.launch.phases import verify
from llmfleet.planner.errors import HealthError


def session(keys_file: str | None) -> SimpleNamespace:
    plan = SimpleNamespace(
        head="head", services=(SimpleNamespace(name="chat"),), router=SimpleNamespace(bind="10.0.0.1", port=8080)
    )
    inventory = SimpleNamespace(router=SimpleNamespace(keys_file=keys_file, tls=None))
    return SimpleNamespace(fleet=SimpleNamespace(plan=plan, inventory=inventory), addresses={"head": "10.0.0.1"})


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
    monkeypatch.setattr(verify, "fetch_on_head", lambda *_: SimpleNamespace(status=status, body=body))
    monkeypatch.setattr(verify, "router_loads", lambda _: {"chat-a": RouterLoad()})
    instances = [SimpleNamespace(id="chat-a")]
    if says is None:
        verify.verify(session(keys_file), instances)  # type: ignore[arg-type]
        return
    with pytest.raises(HealthError, match=says):
        verify.verify(session(keys_file), instances)  # type: ignore[arg-type]
