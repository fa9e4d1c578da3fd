"""Logs of what runs, of what ran, and of what nobody knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_fleet import CLUSTER, Sim

from llmfleet.launch.logs import logs, searched
from llmfleet.launch.record.state import StateStore
from llmfleet.planner.errors import CommandError, TransportError, UnknownNameError


def test_the_log_of_what_runs(sim: Sim) -> None:
    node = sim.nodes["h1"]
    node.files[f"{node.folder.process('chat-h1-0')}/log"] = b"one\ntwo\n"
    assert list(logs(sim.fleet, "chat-h1-0", lines=7)) == ["one", "two"]
    assert node.commands[-1] == ("tail", "-n", "7", "--", f"{node.folder.process('chat-h1-0')}/log")
    assert node.closed


def test_following(sim: Sim) -> None:
    node = sim.nodes["h1"]
    node.files[f"{node.folder.process('chat-h1-0')}/log"] = b"one\n"
    list(logs(sim.fleet, "chat-h1-0", follow=True))
    assert "-F" in node.commands[-1]


def test_the_log_that_down_left(sim: Sim) -> None:
    node = sim.nodes["h3"]
    node.files[f"{node.folder.logs}/chat-h3-0.log"] = b"last words"
    assert list(logs(sim.fleet, "chat-h3-0")) == ["last words"]


def test_lines_that_say_something(sim: Sim) -> None:
    node = sim.nodes["h1"]
    log = f"{node.folder.process('chat-h1-0')}/log"
    node.files[log] = b"one\n"
    node.reply(("grep",), "took 2\ntook 3\n")
    assert searched(sim.fleet, "chat-h1-0", "-e took") == ("took 2", "took 3")
    assert node.commands[-1] == ("grep", "-aE", "-e", "-e took", "--", log)
    assert node.closed


@pytest.mark.parametrize("name", ["router", "ray-head", "application"])
def test_the_head_s_own(sim: Sim, name: str) -> None:
    head = sim.nodes["head"]
    head.files[f"{head.folder.process(name)}/log"] = name.encode()
    assert list(logs(sim.fleet, name)) == [name]


def test_of_another_node_s_router(sim: Sim) -> None:
    sim.plan = replace(sim.plan, router=replace(sim.plan.router, also=("h5",)))
    node = sim.nodes["h5"]
    node.files[f"{node.folder.process('router')}/log"] = b"second"
    assert list(logs(sim.fleet, "router@h5")) == ["second"]
    with pytest.raises(UnknownNameError, match="router@h4"):
        list(logs(sim.fleet, "router@h4"))


def test_there_is_none_yet(sim: Sim) -> None:
    with pytest.raises(CommandError, match="chat-h1-0 has no output yet") as caught:
        list(logs(sim.fleet, "chat-h1-0"))
    assert caught.value.node == "h1"


def test_on_ray_serve_replicas_write_elsewhere(sim: Sim) -> None:
    StateStore(sim.folder, CLUSTER).change(lambda state: replace(state, runtime="ray-serve"))
    with pytest.raises(CommandError) as caught:
        list(logs(sim.fleet, "chat-h1-0"))
    assert f"{sim.nodes['h1'].folder.root}/scratch/session_latest/logs" in caught.value.hint
    with pytest.raises(CommandError) as caught:
        list(logs(sim.fleet, "router"))
    assert "session_latest" not in caught.value.hint


def test_a_name_that_nobody_has(sim: Sim) -> None:
    with pytest.raises(UnknownNameError, match="chat-h1-0"):
        list(logs(sim.fleet, "chat-h1-9"))


def test_a_dead_node(sim: Sim) -> None:
    sim.nodes["h1"].die()
    with pytest.raises(TransportError):
        list(logs(sim.fleet, "chat-h1-0"))
    assert sim.nodes["h1"].closed
