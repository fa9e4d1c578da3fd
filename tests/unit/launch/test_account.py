"""Another account, or another folder, for a node while something of ours runs there: refused, and still taken down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sim_fleet import Sim, SimNode, errors_of, make_inventory

from llmfleet.launch.doctor.examine import examine
from llmfleet.launch.down import down
from llmfleet.launch.drain import drain, undrain
from llmfleet.launch.forget import forget
from llmfleet.launch.rebuild import rebuild
from llmfleet.launch.record import account
from llmfleet.launch.record.account import as_started, changed
from llmfleet.launch.session import open_session
from llmfleet.launch.status import status
from llmfleet.launch.up import UpOptions, up
from llmfleet.planner.errors import NodesError, StateError
from llmfleet.planner.inventory.model import Access, Node, Runtime

OPS = {"user": "ops"}


def node(host: str = "10.0.0.1", folder: str = "~/.llmfleet", **access: Any) -> Node:
    return Node(name="h1", host=host, access=Access(**access), runtime=Runtime(dir=folder))


@pytest.fixture(autouse=True)
def of_ssh_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "user_name", {"10.0.0.1": "ops", "10.0.0.9": "guest"}.get)
    monkeypatch.setattr("getpass.getuser", lambda: "me")


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (node(), node(), ""),
        (node(), node(user="ops"), ""),
        (node(user="ops"), node(), ""),
        (node(user="ops"), node("10.0.0.7", user="ops", port=2222, jump="bastion", key="~/k"), ""),
        (node(user="ops"), node(user="ops", transport="openssh"), ""),
        (node(), node("10.0.0.9"), ""),
        (node(user="root"), node(user="ops", sudo=True), ""),
        (node(sudo=True), node(sudo=True, user="guest", sudo_password_env="PW"), ""),
        (node(transport="local"), node("elsewhere", user="me"), ""),
        (node(user="ops"), node(user="ops", sudo=True), "as ops, and its `access` says root now"),
        (node(sudo=True), node(), "as root, and its `access` says ops now"),
        (node(user="ops"), node(user="guest"), "as ops, and its `access` says guest now"),
        (node(user="ops"), node("elsewhere"), "as ops, and its `access` says me now"),
        (node(folder="/data/a"), node(folder="/data/b"), "in /data/a, and its `runtime: dir` says /data/b now"),
    ],
)
def test_who_is_another(before: Node, after: Node, what: str) -> None:
    assert changed(before, after) == what


def test_a_node_is_worked_on_as_it_was_where_it_is_today() -> None:
    before = node(folder="/data/a", user="ops", key="~/old", sudo_password_env=None)
    after = node("10.0.0.7", folder="/data/b", user="guest", sudo=True, port=2222, jump="bastion", key="~/new")
    made = as_started(before, after)
    assert made.host == "10.0.0.7"
    assert made.access == Access(user="ops", key="~/old", port=2222, jump="bastion")
    assert made.runtime.dir == "/data/a"
    assert as_started(node(user="ops"), moved := node("10.0.0.7", user="ops", key="~/new")) is moved


@pytest.fixture
def switched(sim: Sim) -> Sim:
    """Up as ops; then the inventory says root for h2, who finds nothing of it there."""
    sim.inventory = make_inventory(h2={"access": OPS})
    up(sim.fleet)
    sim.inventory = make_inventory(h2={"access": OPS | {"sudo": True}})
    sim.events.clear()
    return sim


def test_up_refuses_and_touches_nothing(switched: Sim) -> None:
    before = switched.living()
    with pytest.raises(NodesError) as caught:
        up(switched.fleet)
    assert "started as ops, and its `access` says root now" in errors_of(caught.value)["h2"]
    assert "`llmfleet drain h2` before" in str(caught.value)
    assert caught.value.exit_code == 1
    assert switched.living() == before
    assert switched.state()["nodes"]["h2"]["access"]["sudo"] is False


def test_others_go_on_where_it_is_to_be_skipped(switched: Sim) -> None:
    with pytest.raises(NodesError, match="the other nodes are up"):
        up(switched.fleet, UpOptions(skip_unreachable=True))
    assert "chat-h2-0" in switched.living()["h2"]
    assert "h2/chat-h2-0" in switched.state()["processes"]


@pytest.mark.parametrize("act", [drain, forget])
def test_nothing_is_taken_for_gone(switched: Sim, act: Any) -> None:
    with pytest.raises(StateError, match="started as ops"):
        act(switched.fleet, "h2")
    assert "h2/chat-h2-0" in switched.state()["processes"]
    assert switched.state()["drained"] == switched.state()["draining"] == []


def test_it_is_said_by_those_who_only_look(switched: Sim) -> None:
    seen = status(switched.fleet)
    assert any("h2" in p and "started as ops" in p for p in seen.problems)
    report = examine(switched.fleet, [switched.inventory.node("h2")])
    assert [(r.name, r.status) for r in report.nodes[0].results] == [("login", "fail")]
    assert rebuild(switched.fleet).unreachable == ("h2",)
    assert "h2/chat-h2-0" in switched.state()["processes"]


def test_down_takes_it_down_as_it_was_started(switched: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = dict[str, Node]()

    def open_transport(asked: Node) -> SimNode:
        opened[asked.name] = asked
        return switched.open(asked)

    monkeypatch.setattr("llmfleet.launch.session.open_transport", open_transport)
    down(switched.fleet)
    assert (opened["h2"].access.user, opened["h2"].access.sudo) == ("ops", False)
    assert switched.living() == {}
    assert switched.state()["nodes"] == {}
    up(switched.fleet)
    assert switched.state()["nodes"]["h2"]["access"]["sudo"] is True


def test_a_drained_node_may_change_hands(sim: Sim) -> None:
    sim.inventory = make_inventory(h2={"access": OPS})
    up(sim.fleet)
    drain(sim.fleet, "h2")
    sim.inventory = make_inventory(h2={"access": OPS | {"sudo": True}})
    undrain(sim.fleet, "h2")
    assert "chat-h2-0" in sim.living()["h2"]
    assert any("started as ops" in n and "yours to remove" in n for n in sim.notes())


def test_a_record_that_another_version_wrote_is_in_nobodys_way(sim: Sim) -> None:
    up(sim.fleet)
    with open_session(sim.fleet) as session:
        odd = {"name": "h2", "host": "10.0.0.2", "colour": "red"}
        session.store.change(lambda s: replace(s, nodes={**s.nodes, "h2": odd}))
    down(sim.fleet)
    assert sim.living() == {}


def test_another_folder_is_refused_too(sim: Sim) -> None:
    up(sim.fleet)
    sim.inventory = make_inventory(h2={"runtime": {"dir": "/data/fleet"}})
    with pytest.raises(NodesError, match=r"started in ~/\.llmfleet, and its `runtime: dir` says /data/fleet now"):
        up(sim.fleet)


def test_the_head_too(sim: Sim) -> None:
    sim.inventory = make_inventory(head={"access": OPS})
    up(sim.fleet)
    sim.inventory = make_inventory(head={"access": {"user": "guest"}})
    with pytest.raises(NodesError, match=r"(?s)connect to the head.*started as ops"):
        up(sim.fleet)
    down(sim.fleet)
    assert sim.living() == {}
