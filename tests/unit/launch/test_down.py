"""`down` on simulated nodes: all that was started and nothing else, in order, also from half a state."""

from __future__ import annotations

import json
import shutil

import pytest
from sim_fleet import HOME, PIPELINE, Sim, make_inventory, make_plan

from llmfleet.launch.down import PHASES, down
from llmfleet.launch.events import StepDone, StepStarted
from llmfleet.planner.errors import NodesError, TransportError


def test_clients_first_ray_last_and_nothing_is_left(running: Sim) -> None:
    for node in running.nodes.values():
        for name in node.processes:
            node.files[f"{node.folder.process(name)}/log"] = b"words"
    report = down(running.fleet)
    phases = [c.phase for c in report.stopped]
    assert phases == sorted(phases, key=PHASES.index)
    assert [c.title for c in report.stopped if c.phase != "clean up"] == [
        "stop router", "stop chat-h1-0", "stop chat-h2-0", f"stop {PIPELINE}", "stop embed-h5-0",
        "stop ray-worker", "stop ray-worker", "stop ray-head",
    ]  # fmt: skip
    assert running.living() == {}
    assert all(node.files == {} for node in running.nodes.values())
    assert (running.state()["processes"], running.state()["nodes"]) == ({}, {})
    assert ("mv", "-f") in {command[:2] for command in running.nodes["h1"].commands}


def test_a_second_down_does_nothing(running: Sim) -> None:
    down(running.fleet)
    report = down(running.fleet)
    assert (report.stopped, report.unreachable) == ((), ())


def test_a_dry_run_says_the_same_and_stops_nothing(running: Sim) -> None:
    before = running.living(), running.state()
    planned = down(running.fleet, dry_run=True)
    assert (running.living(), running.state()) == before
    assert planned.stopped == down(running.fleet).stopped


def test_weights_may_stay(running: Sim) -> None:
    node = running.nodes["h1"]
    node.files[f"{node.folder.models}/m.gguf"] = b"weights"
    down(running.fleet, keep_weights=True)
    assert list(node.files) == [f"{node.folder.models}/m.gguf"]
    assert [c.node for c in down(running.fleet).stopped] == ["h1"], "left-over weights are found by a later down"
    assert node.files == {}


def test_unreachable_nodes_stay_on_record_here_and_on_the_head(running: Sim) -> None:
    running.nodes["h2"].die()
    assert down(running.fleet).unreachable == ("h2",)
    assert set(running.state()["processes"]) == {"h2/chat-h2-0"}
    assert set(running.state()["nodes"]) == {"h2"}
    head = running.nodes["head"]
    assert json.loads(head.files[head.folder.state])["processes"].keys() == {"h2/chat-h2-0"}
    running.nodes["h2"].error = None
    assert [c.title for c in down(running.fleet).stopped] == ["stop chat-h2-0", "remove our files but the logs"]
    assert running.state()["processes"] == {}
    assert head.files == {}


@pytest.mark.parametrize("when", ["status", "stop", "sweep", "rm"])
def test_a_node_that_dies_in_the_middle_is_left_behind(running: Sim, when: str) -> None:
    running.nodes["h2"].dies_at = lambda argv: when in argv
    report = down(running.fleet)
    assert report.unreachable == ("h2",)
    assert set(running.living()) <= {"h2"}
    assert set(running.state()["nodes"]) == {"h2"}


def test_without_the_head_the_others_go_down(running: Sim) -> None:
    running.nodes["head"].die()
    assert down(running.fleet).unreachable == ("head",)
    assert set(running.living()) == {"head"}
    assert set(running.state()["processes"]) == {"head/router", "head/ray-head"}


def test_a_head_that_comes_back_in_the_middle_is_not_worked_on_without_its_lock(running: Sim) -> None:
    errors = [TransportError("no answer")]

    def away_once() -> None:
        if errors:
            raise errors.pop()

    running.nodes["head"].connect = away_once  # type: ignore[method-assign]
    assert down(running.fleet).unreachable == ("head",)
    assert running.living()["head"] == {"router", "ray-head"}


def test_a_node_that_left_the_inventory_is_taken_down(running: Sim) -> None:
    running.inventory = make_inventory({"h2": ""})
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "chat-h2-0"})
    assert ("h2", "stop chat-h2-0") in {(c.node, c.title) for c in down(running.fleet).stopped}


def test_an_excluded_node_is_left_alone_and_stays_on_record(running: Sim) -> None:
    running.inventory = make_inventory(h2={"exclude": True})
    report = down(running.fleet)
    assert report.unreachable == ()
    assert running.living() == {"h2": {"chat-h2-0"}}
    assert set(running.state()["nodes"]) == {"h2"}
    assert any(n.startswith("h2: excluded") for n in running.notes())


def test_a_node_that_lost_our_folder_is_still_stopped(running: Sim) -> None:
    node = running.nodes["h2"]
    node.files.clear()
    down(running.fleet)
    assert running.living() == {}
    assert ("stop", "chat-h2-0") in node.actions


def test_states_without_sense_do_not_keep_what_is_recorded_running(running: Sim) -> None:
    running.nodes["h2"].reply("supervise.py status", "what?")
    down(running.fleet)
    assert running.living() == {}
    assert any("make no sense" in n for n in running.notes())


def test_what_nobody_recorded_is_found(running: Sim) -> None:
    (running.folder / "state.json").unlink()
    head = running.nodes["head"]
    del head.files[head.folder.state]
    down(running.fleet)
    assert running.living() == {}


def test_another_machine_can_take_it_down(running: Sim) -> None:
    shutil.rmtree(running.folder)
    running.inventory = make_inventory({"h2": ""})
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "chat-h2-0"})
    down(running.fleet)
    assert running.living() == {}


def test_files_that_cannot_be_removed_are_told(running: Sim) -> None:
    running.nodes["h2"].reply(("rm",), exit_code=1, stderr="rm: cannot remove: Permission denied")
    with pytest.raises(NodesError, match=r"h2: our files could not be removed: .*Permission denied"):
        down(running.fleet)
    assert set(running.state()["nodes"]) == set(running.nodes), "nothing is forgotten before all is done"


def test_every_step_is_told(running: Sim) -> None:
    down(running.fleet)
    started = [(e.node, e.title) for e in running.events if isinstance(e, StepStarted)]
    done = [(e.node, e.title) for e in running.events if isinstance(e, StepDone) and e.changed]
    assert sorted(started) == sorted(done)
