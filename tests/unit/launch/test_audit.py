"""The audit log stays bounded, here and on nodes, and both of its files are read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sim_fleet import Sim

from llmfleet.launch.record import audit
from llmfleet.launch.record.audit import AuditFile, Entry, append_command, node_audit
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.planner.errors import StateError

LINES = [Entry("2026-01-01T00:00:00Z", "ops@desk", "up", "h1", "router", f"step {n}", "done").line() for n in range(9)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 3 * len(LINES[0]))


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text().splitlines()) for path in folder.iterdir()}


def test_the_file_here(tmp_path: Path) -> None:
    log = AuditFile(tmp_path)
    assert log.read() == []
    for line in LINES:
        log.append(line)
    assert [e.step for e in log.read()] == [f"step {n}" for n in range(3, 9)]
    assert [e.step for e in log.read(2)] == ["step 7", "step 8"]
    assert sizes(tmp_path) == {"audit.log": 3, "audit.1.log": 3}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_in_the_place_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be read: Not a directory"):
        AuditFile(tmp_path / "file").read()


def test_the_file_on_a_node(tmp_path: Path, sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    node = LocalTransport("h1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(audit, "open_transport", lambda _: node)
    fleet = sim.fleet
    assert node_audit(fleet.inventory, "h1", 5) == []
    folder = tmp_path / ".llmfleet" / fleet.inventory.cluster / "h1" / "logs"
    for line in LINES:
        subprocess.run(append_command(str(folder / "audit.log"), line), check=True)
    assert [e.step for e in node_audit(fleet.inventory, "h1", 5)] == [f"step {n}" for n in range(4, 9)]
    assert sizes(folder) == {"audit.log": 3, "audit.1.log": 3}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
