"""The state file: never half written, never another cluster's, found again after a crash."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from llmfleet.launch.record.state import ProcessRecord, State, StateStore, dump_state, parse_state, write_atomically
from llmfleet.planner.errors import BrokenStateError, StateError
from llmfleet.planner.inventory.model import Node

RECORD = ProcessRecord("h1", "chat-h1-0", "engine", "abc", "starting")


def test_records_survive_a_new_process(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "rag")
    store.remember_nodes((Node(name="h1", host="10.0.0.1"),), plan_hash="p1", head="h1")
    store.put_process(RECORD)
    again = StateStore(tmp_path, "rag").value
    assert again.processes == {"h1/chat-h1-0": RECORD}
    assert again.node("h1").host == "10.0.0.1"
    assert again.plan_hash == "p1"


def test_remembering_nodes_adds_and_never_forgets(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "rag")
    store.remember_nodes((Node(name="h1", host="a"), Node(name="h2", host="b")), plan_hash="p1", head="h1")
    store.remember_nodes((Node(name="h2", host="c"),), plan_hash="p2", head="h2")
    assert set(store.value.nodes) == {"h1", "h2"}
    assert store.value.node("h2").host == "c"


def test_a_dropped_process_is_gone_and_others_stay(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "rag")
    store.put_process(RECORD)
    store.put_process(replace(RECORD, name="other"))
    store.drop_process(RECORD.key)
    assert set(StateStore(tmp_path, "rag").value.processes) == {"h1/other"}


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "new", "rag")
    store.put_process(RECORD)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    StateStore(tmp_path, "rag").put_process(RECORD)
    with pytest.raises(StateError, match='belongs to cluster "rag"'):
        StateStore(tmp_path, "other")


GARBAGE = [b"", b"{", b"[]", b'{"schema": "x"}', b"\xff\xfe", b'{"cluster": 3}', b"[" * 100_000]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_named_not_read(text: bytes) -> None:
    with pytest.raises(StateError, match=r"state\.json is not a state file"):
        parse_state(text, "state.json")


def test_what_is_wrong_with_it_has_a_place() -> None:
    with pytest.raises(StateError, match="is not a state file: cluster: "):
        parse_state(b'{"cluster": 3}', "state.json")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", ".hidden", "a\nb", "\x1b[31m"])
def test_a_process_is_no_path(name: str) -> None:
    record = {"node": "a", "name": name, "kind": "engine", "digest": "", "state": "started"}
    with pytest.raises(StateError, match="is no name of a process"):
        parse_state(json.dumps({"cluster": "t", "processes": {f"a/{name}": record}}), "state.json")


def test_a_newer_schema_is_refused() -> None:
    body = json.loads(dump_state(State("rag")))
    with pytest.raises(StateError, match="schema 3, written by a newer llmfleet; this one knows") as caught:
        parse_state(json.dumps({**body, "schema": 3, "more": {}}), "state.json")
    assert not isinstance(caught.value, BrokenStateError), "it is to be kept, and not to be replaced"


def test_an_older_schema_is_brought_up() -> None:
    record = {"node": "h1", "name": "chat-h1-0", "kind": "engine", "digest": "abc", "state": "started"}
    old = {"cluster": "rag", "schema": 1, "serial": 7, "plan_hash": "p1", "processes": {"h1/chat-h1-0": record}}
    state = parse_state(json.dumps(old), "state.json")
    assert (state.schema, state.serial, state.complete, state.previous_plan) == (2, 7, True, "")
    assert state.processes["h1/chat-h1-0"].plan == "p1"
    assert parse_state(dump_state(state), "state.json") == state


def test_the_way_back_is_the_last_plan_that_was_all_up(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "rag")

    def begin(plan: str) -> tuple[str, str, bool]:
        store.remember_nodes((), plan_hash=plan, head="h1")
        return store.value.plan_hash, store.value.previous_plan, store.value.changing

    assert begin("p1") == ("p1", "", False), "a first plan changes nothing"
    store.completed()
    assert begin("p2") == ("p2", "p1", True)
    assert begin("p2") == ("p2", "p1", True), "gone on with"
    assert begin("p3") == ("p3", "p1", True), "p2 was never all up"
    assert begin("p1") == ("p1", "p3", True), "going back, p3 is the way forth"
    store.completed()
    assert (store.value.plan_hash, store.value.changing) == ("p1", False)


def test_out_of_rotation_is_draining_and_drained() -> None:
    assert State("rag", draining=("a",), drained=("b",)).out_of_rotation == {"a", "b"}
