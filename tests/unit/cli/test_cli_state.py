"""llmfleet state, audit and down --forget as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fleet import INVENTORY, Run, small_plan

from llmfleet.cli.render.state import rebuilt
from llmfleet.cli.workspace import plan_path, read_inventory
from llmfleet.launch.rebuild import Rebuilt
from llmfleet.launch.record.audit import AuditFile, Entry
from llmfleet.launch.record.state import ProcessRecord, StateStore
from llmfleet.planner.inventory.digest import inventory_hash
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import to_json

ENTRY = Entry("2026-11-25T03:00:00.000+00:00", "ann@desk", "up", "slot-0", "instances", "start chat-slot-0-0", "done")


@pytest.fixture(autouse=True)
def workspace(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    plan_path(path).parent.mkdir()
    plan_path(path).write_text(json.dumps(to_json(small_plan(inventory_hash(read_inventory(path))))))
    return path


@pytest.fixture
def store(workspace: Path) -> StateStore:
    made = StateStore(workspace.parent / ".llmfleet", "rag")
    made.remember_nodes((Node(name="slot-0", host="127.0.0.2"),), plan_hash="7f3a9c000000", head="head")
    made.put_process(ProcessRecord("slot-0", "chat-slot-0-0", "engine", "abc", "started", "7f3a9c000000"))
    return made


def test_show(run: Run, store: StateStore) -> None:
    out = run("state", "show").out
    assert out.startswith("rag: 1 process on 1 node, plan 7f3a9c, not all up yet\n")
    assert "slot-0  127.0.0.2    chat-slot-0-0  started  7f3a9c" in out
    store.completed()
    assert "not all up" not in run("state", "show").out
    store.remember_nodes((), plan_hash="aaaaaa000000", head="head")
    assert "plan aaaaaa, in the middle of a change from 7f3a9c" in run("state", "show").out
    assert json.loads(run("state", "show", "--json").out)["processes"].keys() == {"slot-0/chat-slot-0-0"}


def test_show_before_anything_was_done(run: Run) -> None:
    assert "nothing is on record" in run("state", "show").out


def test_a_broken_file_is_named_with_what_to_do(run: Run, store: StateStore) -> None:
    store.path.write_text("{")
    ran = run("state", "show")
    assert ran.code == 1
    assert "is not a state file" in ran.err
    assert "llmfleet state rebuild" in ran.err


def test_what_a_rebuild_says() -> None:
    report = Rebuilt(("a/x",), ("b/y",), ("c",), 3, "7f3a9c", changed=True)
    assert rebuilt(report).splitlines() == [
        "a/x: runs, put on record",
        "b/y: does not run, struck off",
        "3 processes on record.",
        "Not reached, their records stay: c.",
        "Next: llmfleet status, and llmfleet up to have what the plan says.",
    ]
    assert rebuilt(Rebuilt((), (), (), 3, "7f3a9c", changed=False)) == "Nothing to do: what is on record is what runs."
    assert "a/x: runs, would be put on record" in rebuilt(Rebuilt(("a/x",), (), (), 1, "", changed=True, dry_run=True))


def test_audit(run: Run, workspace: Path) -> None:
    assert run("audit").out == "nothing was changed yet\n"
    log = AuditFile(workspace.parent / ".llmfleet")
    log.append(ENTRY.line())
    log.append("half a li")
    log.append(ENTRY.line().replace('"done"', '"failed: no room"'))
    entries = json.loads(run("audit", "--json").out)["entries"]
    assert [e["result"] for e in entries] == ["done", "failed: no room"]
    lines = run("audit", "-n", "1").out.splitlines()
    assert len(lines) == 2
    assert "ann@desk  up       slot-0  start chat-slot-0-0  failed: no room" in lines[1]


def test_forget(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmfleet.cli.down.forget_node", lambda *_: ("chat-slot-0-0",))
    assert run("down", "--forget", "slot-0").out == "slot-0 is off the record, and with it chat-slot-0-0.\n"
    assert json.loads(run("down", "--forget", "slot-0", "--json").out) == {
        "forgotten": "slot-0", "processes": ["chat-slot-0-0"],
    }  # fmt: skip
