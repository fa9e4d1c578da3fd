"""A state that was lost, broken or wrong, read back from simulated nodes; and machines that are no more."""

from __future__ import annotations

import json
import shutil

import pytest
from sim_fleet import HOME, Sim, make_inventory, make_plan

from llmfleet.launch.down import down
from llmfleet.launch.drain import drain
from llmfleet.launch.forget import forget
from llmfleet.launch.rebuild import rebuild
from llmfleet.launch.status import status
from llmfleet.launch.up import up
from llmfleet.planner.errors import BrokenStateError, HostKeyError, InputError, NodesError, StateError


def lose(sim: Sim, text: bytes | None = None) -> None:
    head = sim.nodes["head"]
    for write in ((sim.folder / "state.json").write_bytes, lambda t: head.files.update({head.folder.state: t})):
        if text is not None:
            write(text)
    if text is None:
        (sim.folder / "state.json").unlink()
        del head.files[head.folder.state]


@pytest.mark.parametrize("text", [None, b"{", b""])
def test_what_runs_is_read_back(running: Sim, text: bytes | None) -> None:
    before = running.state()
    lose(running, text)
    report = rebuild(running.fleet)
    assert set(report.found) == set(before["processes"])
    assert (report.gone, report.unreachable, report.changed) == ((), (), True)
    after = running.state()
    assert after["plan_hash"] == before["plan_hash"]
    assert set(after["nodes"]) == set(before["nodes"])
    assert {k: (r["digest"], r["state"]) for k, r in after["processes"].items()} == {
        k: (r["digest"], r["state"]) for k, r in before["processes"].items()
    }
    head = running.nodes["head"]
    assert json.loads(head.files[head.folder.state]) == after
    assert up(running.fleet).changed == ()
    assert not rebuild(running.fleet).changed


def test_a_dry_run_writes_nothing(running: Sim) -> None:
    lose(running)
    assert rebuild(running.fleet, dry_run=True).changed
    assert not (running.folder / "state.json").exists()
    assert not [f for f in running.nodes["head"].files if f.endswith("state.json")]


def test_records_of_what_does_not_run_go_and_those_of_nodes_that_are_away_stay(running: Sim) -> None:
    running.nodes["h1"].processes.clear()
    running.nodes["h2"].die()
    running.nodes["h5"].processes["old"] = {"name": "old", "kind": "engine", "state": "healthy", "digest": "x"}
    with pytest.raises(NodesError):
        up(running.fleet)
    report = rebuild(running.fleet)
    assert (report.found, report.gone, report.unreachable) == (("h5/old",), ("h1/chat-h1-0",), ("h2",))
    assert "h2/chat-h2-0" in running.state()["processes"]
    running.nodes["h2"].error = None
    titles = [c.title for c in up(running.fleet).changed]
    assert "start chat-h1-0" in titles
    assert "stop old, which is no longer needed" in titles


def test_an_engine_started_by_another_run_is_taken_over(running: Sim) -> None:
    running.nodes["h1"].processes["chat-h1-0"]["digest"] = "123456789abc"
    with pytest.raises(NodesError, match="not the one that the state knows"):
        up(running.fleet)
    assert rebuild(running.fleet).found == ("h1/chat-h1-0",)
    assert "stop chat-h1-0, to be replaced" in [c.title for c in up(running.fleet).changed]


def test_the_heads_copy_takes_the_place_of_a_broken_file(running: Sim) -> None:
    before = running.state()
    (running.folder / "state.json").write_bytes(b'{"clus')
    assert status(running.fleet).ok
    assert (running.folder / "state.json").read_bytes() == b'{"clus', "who only looks changes nothing"
    assert up(running.fleet).changed == ()
    assert running.state()["processes"] == before["processes"]
    assert (running.folder / "state.json.broken").read_bytes() == b'{"clus'
    assert any("took the copy that the head node keeps" in n for n in running.notes())


def test_a_broken_copy_on_the_head_is_written_anew(running: Sim) -> None:
    head = running.nodes["head"]
    head.files[head.folder.state] = b"\0\0"
    up(running.fleet)
    assert head.files[head.folder.state] == (running.folder / "state.json").read_bytes()


def test_where_both_are_broken_nothing_is_touched(running: Sim) -> None:
    lose(running, b"[]")
    for operation in (up, down, lambda f: drain(f, "h1")):
        with pytest.raises(BrokenStateError) as caught:
            operation(running.fleet)
        assert "llmfleet state rebuild" in caught.value.hint
    assert not any(node.actions for node in running.nodes.values())
    found = status(running.fleet)
    assert found.ok
    assert any("what is drained is not known" in n for n in running.notes())


def test_a_machine_that_is_gone_is_forgotten_and_one_that_answers_is_not(running: Sim) -> None:
    with pytest.raises(StateError, match="h2 answers"):
        forget(running.fleet, "h2")
    with pytest.raises(StateError, match="is the head node"):
        forget(running.fleet, "head")
    with pytest.raises(InputError, match="on record"):
        forget(running.fleet, "h9")
    drain(running.fleet, "h2")
    running.nodes["h2"].die()
    assert forget(running.fleet, "h2") == ()
    running.nodes["h5"].error = HostKeyError("its key changed", node="h5")
    assert forget(running.fleet, "h5") == ("embed-h5-0",)
    state = running.state()
    assert not {"h2", "h5"} & set(state["nodes"])
    assert (state["drained"], [k for k in state["processes"] if k.startswith(("h2/", "h5/"))]) == ([], [])
    assert "h2: the plan still has it: set `exclude: true`, or remove it, and plan again" in running.notes("info")
    running.plan = make_plan({k: v for k, v in HOME.items() if not {"h2", "h5"} & set(v)})
    running.inventory = make_inventory({"h2": "", "h5": ""})
    up(running.fleet)
    assert down(running.fleet).unreachable == ()
    assert running.state()["processes"] == {}


def test_a_drain_of_a_dead_node_does_not_claim_to_have_stopped_anything(running: Sim) -> None:
    running.nodes["h2"].die()
    assert drain(running.fleet, "h2").unreachable == ("h2",)


def test_from_another_machine(running: Sim) -> None:
    shutil.rmtree(running.folder)
    lose_head = running.nodes["head"]
    del lose_head.files[lose_head.folder.state]
    report = rebuild(running.fleet)
    assert report.plan_hash == running.plan.hash, "the head keeps the plan"
    assert {p["plan"] for p in running.state()["processes"].values() if p["kind"] == "engine"} == {running.plan.hash}
