"""Simulated nodes in place of real ones, and no waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sim_fleet import Sim

from llmfleet.launch import logs, session, watch_loop
from llmfleet.launch.nodes import finish
from llmfleet.launch.phases import instances, ray, roll, router, verify
from llmfleet.launch.up import up


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sim:
    made = Sim(tmp_path / ".llmfleet")
    for module in (session, logs, watch_loop):
        monkeypatch.setattr(module, "open_transport", made.open)
    for module in (finish, instances, ray, roll, verify):
        monkeypatch.setattr(module, "POLL_S", 0)
    for module in (finish, router):
        monkeypatch.setattr(module, "SETTLE_S", 0)
    return made


COPY: list[tuple[dict[str, bytes], dict[str, Any]]] = []


@pytest.fixture
def running(sim: Sim) -> Sim:
    """After an `up`, which is done once for all tests."""
    if not COPY:
        up(sim.fleet)
        COPY.append(sim.copy())
        sim.events.clear()
        for node in sim.nodes.values():
            node.actions.clear()
            node.commands.clear()
    else:
        sim.take(COPY[0])
    return sim
