"""Starting, stopping and seeing processes; scripts; stale ones: each on one simulated node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sim_fleet import PIPELINE, Sim

from llmfleet.launch.change.steps import Runner, Step
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.processes import log_tail, read_statuses, start_step, stop_step
from llmfleet.launch.phases import instances, scripts
from llmfleet.launch.record.state import ProcessRecord
from llmfleet.launch.session import Session, open_session
from llmfleet.planner.errors import CommandError, NodesError, TransportError

CHAT = Process("chat-h1-0", "h1", "engine", ("serve",))


@pytest.fixture
def session(sim: Sim) -> Iterator[Session]:
    """h1 and h2 connected, with our scripts."""
    with open_session(sim.fleet) as made:
        made.connect([made.node("h1"), made.node("h2")])
        for name in ("h1", "h2"):
            sim.put_scripts(name)
        yield made


def run(*steps: Step) -> list[str]:
    return [c.title for c in Runner(lambda _: None).phase(1, "test", lambda: steps)]


def start(session: Session, process: Process = CHAT) -> list[str]:
    return run(start_step(session, process, read_statuses(session, ["h1"])))


def test_start_is_recorded_and_needed_once(sim: Sim, session: Session) -> None:
    assert start(session) == ["start chat-h1-0"]
    assert session.store.value.processes["h1/chat-h1-0"] == ProcessRecord(
        "h1", "chat-h1-0", "engine", CHAT.digest, "started", session.fleet.plan.hash
    )
    assert start(session) == []
    assert sim.nodes["h1"].actions == [("start", "chat-h1-0")]


def test_it_is_on_record_before_it_runs(sim: Sim, session: Session) -> None:
    sim.nodes["h1"].reply("supervise.py start", exit_code=1, stderr="noise\nno such argv")
    with pytest.raises(NodesError, match="h1: chat-h1-0 could not be started: no such argv") as caught:
        start(session)
    assert "/run/chat-h1-0/log on the node" in str(caught.value)
    assert session.store.value.processes["h1/chat-h1-0"].state == "starting"


@pytest.mark.parametrize(
    ("state", "done"),
    [
        ("healthy", []),
        ("starting", []),
        ("unhealthy", []),
        ("stopping", ["restart chat-h1-0"]),
        ("exited", ["start chat-h1-0"]),
        ("failed", ["start chat-h1-0"]),
    ],
)
def test_what_runs_already_is_let_be(sim: Sim, session: Session, state: str, done: list[str]) -> None:
    start(session)
    sim.nodes["h1"].processes["chat-h1-0"]["state"] = state
    assert start(session) == done


def test_another_command_line_is_stopped_first(sim: Sim, session: Session) -> None:
    start(session)
    assert start(session, Process("chat-h1-0", "h1", "engine", ("serve", "--more"))) == ["restart chat-h1-0"]
    assert [a for a, _ in sim.nodes["h1"].actions] == ["start", "stop", "start"]


def test_stop_takes_it_off_the_record(sim: Sim, session: Session) -> None:
    start(session)
    assert run(stop_step(session, "h1", "chat-h1-0", grace_s=5)) == ["stop chat-h1-0"]
    assert session.store.value.processes == {}
    assert sim.nodes["h1"].commands[-1][2:] == ("stop", f"{session.folders['h1'].process('chat-h1-0')}", "--grace", "5")


def test_a_stop_that_fails_leaves_the_record(sim: Sim, session: Session) -> None:
    start(session)
    sim.nodes["h1"].reply("supervise.py stop", exit_code=1, stderr="no space left")
    with pytest.raises(NodesError, match="could not be stopped: no space left"):
        run(stop_step(session, "h1", "chat-h1-0", grace_s=5))
    assert "h1/chat-h1-0" in session.store.value.processes


def test_a_script_that_is_gone_goes_along_to_stop_and_see_but_not_to_start(sim: Sim, session: Session) -> None:
    start(session)
    node = sim.nodes["h1"]
    del node.files[node.folder.script("supervise.py")]
    assert read_statuses(session, ["h1"])["h1"]["chat-h1-0"].state == "healthy"
    assert node.commands[-1][:3] == ("python3", "-", "status")
    assert run(stop_step(session, "h1", "chat-h1-0", grace_s=5))
    with pytest.raises(NodesError, match="can't open file"):
        start(session)


def test_a_node_without_our_folder_runs_nothing(session: Session) -> None:
    assert read_statuses(session, ["h1", "h2"]) == {"h1": {}, "h2": {}}


def test_all_nodes_that_do_not_answer_are_named(sim: Sim, session: Session) -> None:
    for name in ("h1", "h2"):
        sim.nodes[name].die()
    with pytest.raises(NodesError, match="on 2 nodes") as caught:
        read_statuses(session, ["h1", "h2"])
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("answer", ["", "{}", "[1]", '[{"name": "x", "state": "fine"}]'])
def test_nonsense_is_named(sim: Sim, session: Session, answer: str) -> None:
    start(session)
    sim.nodes["h1"].reply("supervise.py status", answer)
    with pytest.raises(NodesError, match="h1: its process states make no sense"):
        read_statuses(session, ["h1"])


def test_last_words_never_hide_the_error_they_belong_to(sim: Sim, session: Session) -> None:
    node = sim.nodes["h1"]
    node.files[f"{node.folder.process('chat-h1-0')}/log"] = b"one\ntwo"
    assert log_tail(session, "h1", "chat-h1-0") == ["one", "two"]
    assert log_tail(session, "h1", "other") == []
    node.die()
    assert log_tail(session, "h1", "chat-h1-0") == []


def test_scripts_are_copied_where_they_differ(sim: Sim, session: Session) -> None:
    node = sim.nodes["h1"]
    assert run(*scripts.script_steps(session, ["h1"])) == ["copy scripts"]
    assert node.files[node.folder.script("supervise.py")] == scripts.scripts()["supervise.py"]
    assert node.modes[node.folder.script("supervise.py")] == 0o700
    assert run(*scripts.script_steps(session, ["h1"])) == []
    node.files[node.folder.script(scripts.MARKER)] = b"older"
    assert run(*scripts.script_steps(session, ["h1"])) == ["copy scripts"]


def test_scripts_cut_short_are_copied_again(sim: Sim, session: Session) -> None:
    node, put, sent = sim.nodes["h1"], sim.nodes["h1"].put, []

    def cut(data: bytes, path: str, *, mode: int = 0o600) -> None:
        sent.append(path)
        if len(sent) == 3:
            raise TransportError("connection lost")
        put(data, path, mode=mode)

    node.put = cut  # type: ignore[method-assign]
    with pytest.raises(NodesError, match="h1: connection lost"):
        run(*scripts.script_steps(session, ["h1"]))
    node.put = put  # type: ignore[method-assign]
    assert run(*scripts.script_steps(session, ["h1"])) == ["copy scripts"]


def stale(session: Session, *wanted: Process) -> list[str]:
    return [s.title for s in instances.stale_steps(session, wanted, read_statuses(session, ["h1"]))]


def test_stale_is_what_is_recorded_or_found_and_not_wanted(sim: Sim, session: Session) -> None:
    start(session)
    assert stale(session, CHAT) == []
    assert stale(session) == ["stop chat-h1-0, whose nodes are not all there"]
    start(session, Process("old", "h1", "engine", ("serve",)))
    assert stale(session, CHAT) == ["stop old, which is no longer needed"]
    session.store.drop_process("h1/old")
    assert stale(session, CHAT) == ["stop old, which is no longer needed"], "it was found running"
    sim.nodes["h1"].processes["old"]["state"] = "failed"
    assert stale(session, CHAT) == []
    session.store.put_process(ProcessRecord("h5", "far", "engine", "", "started"))
    assert stale(session, CHAT) == [], "what is not connected is left on record"


def test_what_finishes_its_requests_is_not_stale(session: Session) -> None:
    session.store.change(lambda s: replace(s, draining=("h4", "h2")))
    assert instances.finishing(session) == {
        ("h2", "chat-h2-0"), ("h3", PIPELINE), ("h3", "ray-worker"), ("h4", "ray-worker"), ("head", "ray-head"),
    }  # fmt: skip


def test_the_check_comes_before_every_step() -> None:
    done: list[str] = []

    def lost() -> None:
        if done:
            raise CommandError("the lock was lost")

    steps = [Step("h1", f"{n}", lambda: True, lambda: done.append("x")) for n in range(3)]
    with pytest.raises(NodesError, match="the lock was lost"):
        Runner(lambda _: None, check=lost).phase(1, "test", lambda: steps)
    assert done == ["x"]


def test_the_check_keeps_nobody_from_looking() -> None:
    def lost() -> None:
        pytest.fail("nothing was to be changed")

    assert Runner(lambda _: None, check=lost).phase(1, "t", lambda: [Step("h1", "a", lambda: False, lost)]) == []


def test_a_run_that_can_go_on_without_a_node_is_told_of_it() -> None:
    def away() -> None:
        raise TransportError("no answer")

    def broken() -> None:
        raise CommandError("disk full")

    lost: list[str] = []
    runner = Runner(lambda _: None, lose=lambda node, _: lost.append(node))
    assert runner.phase(1, "t", lambda: [Step("h1", "a", lambda: True, away)]) == []
    with pytest.raises(NodesError, match="failed on 1 node:\nh2: disk full"):
        runner.phase(1, "t", lambda: [Step("h1", "a", lambda: True, away), Step("h2", "a", lambda: True, broken)])
    assert lost == ["h1", "h1"]
