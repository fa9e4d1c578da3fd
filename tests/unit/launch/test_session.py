"""The session: who is connected, whose state counts, and what is written where."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sim_fleet import CLUSTER, Sim

from llmfleet.launch import session as module
from llmfleet.launch.down import down
from llmfleet.launch.drain import drain
from llmfleet.launch.record.lock import fleet_lock
from llmfleet.launch.record.state import ProcessRecord, State, StateStore, dump_state, parse_state, united
from llmfleet.launch.session import open_session
from llmfleet.launch.up import locked_session, up
from llmfleet.planner.errors import InputError, LockedError, StateError, TransportError
from llmfleet.planner.inventory.model import Node

ONE = ProcessRecord("h1", "a", "engine", "d", "started")
TWO = ProcessRecord("h2", "b", "engine", "d", "started")


@pytest.mark.parametrize(
    ("mine", "theirs", "drained", "processes"),
    [
        (State("rag", serial=3, drained=("x",)), State("rag", serial=5, drained=("y",)), ("y",), set()),
        (State("rag", serial=5, drained=("x",)), State("rag", serial=3, drained=("y",)), ("x",), set()),
        (State("rag", serial=5, drained=("x",)), State("rag", serial=5, drained=("y",)), ("x",), set()),
        (State("rag", serial=5, processes={ONE.key: ONE}), State("rag", serial=3, processes={TWO.key: TWO}), (),
         {ONE.key, TWO.key}),
        (State("rag"), State("rag", serial=3, processes={TWO.key: TWO}), (), {TWO.key}),
    ],
)  # fmt: skip
def test_of_two_copies_the_newer_counts_and_no_process_is_lost(
    mine: State, theirs: State, drained: tuple[str, ...], processes: set[str]
) -> None:
    both = united(mine, theirs)
    assert (both.drained, set(both.processes)) == (drained, processes)


def test_the_newer_record_of_a_process_counts() -> None:
    newer = replace(ONE, digest="new")
    assert united(
        State("rag", serial=1, processes={ONE.key: ONE}), State("rag", serial=2, processes={ONE.key: newer})
    ) == (State("rag", serial=2, processes={ONE.key: newer}))


def test_another_cluster_s_copy_is_refused() -> None:
    with pytest.raises(StateError, match='state of cluster "other"'):
        united(State("rag"), State("other"))


def test_a_lost_state_is_taken_over_from_the_head(running: Sim) -> None:
    before = running.state()
    shutil.rmtree(running.folder)
    with locked_session(running.fleet, "up") as session:
        session.connect([session.node("head")])
        session.adopt_state_from_head()
    assert running.state() == before
    assert "took over the state that the head node keeps" in running.notes("info")[-1]


def test_an_older_state_here_gives_way(running: Sim) -> None:
    """Another machine has drained a node since: this one must not start it again."""
    head = running.nodes["head"]
    theirs = json.loads(head.files[head.folder.state])
    head.files[head.folder.state] = json.dumps(theirs | {"serial": theirs["serial"] + 4, "drained": ["h2"]}).encode()
    running.nodes["h2"].processes["chat-h2-0"]["state"] = "exited"
    assert not [c for c in up(running.fleet).changed if c.node == "h2"]
    assert running.state()["drained"] == ["h2"]


def test_without_a_lock_it_is_only_for_this_run(running: Sim) -> None:
    shutil.rmtree(running.folder)
    with open_session(running.fleet) as session:
        session.connect([session.node("head")])
        session.adopt_state_from_head()
        assert session.store.value.processes
        session.copy_state_to_head()
    assert not running.folder.exists()


def test_the_copy_is_written_once(running: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.nodes["head"], "put", lambda *_, **__: pytest.fail("wrote again"))
    assert up(running.fleet).changed == ()


@pytest.mark.parametrize("theirs", [{"schema": 99}, {"cluster": "other"}])
@pytest.mark.parametrize("change", [up, down, lambda fleet: drain(fleet, "h1")], ids=["up", "down", "drain"])
def test_a_copy_that_is_refused_stays_as_it_is(running: Sim, theirs: dict[str, object], change: Any) -> None:
    head = running.nodes["head"]
    newer = json.dumps(json.loads(head.files[head.folder.state]) | theirs).encode()
    head.files[head.folder.state] = newer
    before = running.living()
    with pytest.raises(StateError):
        change(running.fleet)
    assert head.files[head.folder.state] == newer
    assert running.living() == before


def test_a_copy_that_could_not_be_read_is_not_written_over(running: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be newer than ours."""
    head = running.nodes["head"]
    newer = dump_state(replace(parse_state(head.files[head.folder.state], ""), serial=99))
    head.files[head.folder.state] = newer

    def slow(path: str) -> bytes:
        raise TransportError(f"{path} took too long")

    monkeypatch.setattr(head, "get", slow)
    with pytest.raises(TransportError):
        up(running.fleet)
    assert head.files[head.folder.state] == newer


def test_a_copy_that_cannot_be_written_is_only_a_warning(running: Sim) -> None:

    def full(data: bytes, path: str, *, mode: int = 0) -> None:
        raise TransportError("disk full")

    with locked_session(running.fleet, "up") as session:
        session.connect([session.node("head")])
        session.store.put_process(ONE)
        running.nodes["head"].put = full  # type: ignore[method-assign]
        session.copy_state_to_head()
    assert running.notes()[-1] == "head: the state could not be copied to the head: disk full"


def test_a_full_disk_here_is_told_and_keeps_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(tmp_path, CLUSTER)
    store.put_process(ONE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmfleet.launch.record.state.write_atomically", full)
    with pytest.raises(StateError, match=r"state\.json cannot be written: No space left") as caught:
        store.put_process(TWO)
    assert caught.value.hint
    assert set(store.value.processes) == {ONE.key}


def test_a_state_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(StateError, match="cannot be read: Is a directory"):
        StateStore(tmp_path, CLUSTER)


def test_each_change_counts_and_none_that_changes_nothing(tmp_path: Path) -> None:
    store = StateStore(tmp_path, CLUSTER)
    for _ in range(3):
        store.put_process(ONE)
    assert StateStore(tmp_path, CLUSTER).value.serial == 1
    store.drop_process(ONE.key)
    assert json.loads(dump_state(store.value))["serial"] == 2


def test_a_node_of_another_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is no node"):
        State(CLUSTER, nodes={"h1": {"name": "h1", "host": "a", "colour": "red"}}).node("h1")


def test_an_error_without_a_node_gets_its_name(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(node: Node) -> None:
        raise InputError("ssh_config makes no sense")

    monkeypatch.setattr(module, "open_transport", bad)
    with open_session(sim.fleet) as session:
        outcomes = session.connect([session.node("h1"), session.node("h2")])
    assert [str(o.error) for o in outcomes] == [f"{n}: ssh_config makes no sense" for n in ("h1", "h2")]


def test_a_node_that_is_back_is_not_lost(sim: Sim) -> None:
    sim.nodes["h1"].die()
    with open_session(sim.fleet) as session:
        session.connect([session.node("h1")])
        assert set(session.lost) == {"h1"}
        sim.nodes["h1"].error = None
        session.connect([session.node("h1")])
        assert session.lost == {}


def test_one_run_at_a_time_here(sim: Sim) -> None:
    with locked_session(sim.fleet, "up"), pytest.raises(LockedError):
        up(sim.fleet)
    assert sim.living() == {}


def test_the_lock_is_let_go_before_the_connection_ends(sim: Sim) -> None:
    with locked_session(sim.fleet, "up") as session:
        session.connect([session.node("head")])
        session.lock_head()
        sim.nodes["head"].close = lambda: _free_again(sim)  # type: ignore[method-assign]


def _free_again(sim: Sim) -> None:
    with fleet_lock(sim.folder, command="status"):
        pass
