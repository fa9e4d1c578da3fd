"""A second router on h5, beside the head's: it comes, hears of every change, and goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml
from sim_fleet import HOME, Sim, make_plan

from llmfleet.launch.change.steps import Runner
from llmfleet.launch.down import down
from llmfleet.launch.drain import drain
from llmfleet.launch.nodes.engine_load import in_flight
from llmfleet.launch.phases import connect, router
from llmfleet.launch.phases.verify import router_url
from llmfleet.launch.router_view import router_diff, router_reload
from llmfleet.launch.session import Session, open_session
from llmfleet.launch.status import status
from llmfleet.launch.up import UpOptions, up
from llmfleet.planner.errors import NodesError, StateError, TransportError
from llmfleet.planner.plan import Plan, sealed

EMPTY = {name: nodes for name, nodes in HOME.items() if "h5" not in nodes}


def with_second(plan: Plan) -> Plan:
    return sealed(replace(plan, router=replace(plan.router, also=("h5",), address="10.0.0.99"), hash=""))


@pytest.fixture
def two(sim: Sim) -> Iterator[Session]:
    sim.plan = with_second(sim.plan)
    with open_session(sim.fleet) as made:
        made.connect(made.fleet.planned_nodes())
        connect.resolve_addresses(made, made.fleet.planned_nodes())
        for name in sim.nodes:
            sim.put_scripts(name)
        yield made


def drained_at(sim: Sim, node: str) -> set[str]:
    text = sim.nodes[node].files[f"{sim.nodes[node].folder.router}/xds/eds/chat.main.yaml"]
    hosts = yaml.safe_load(text)["resources"][0]["endpoints"][0]["lb_endpoints"]
    return {h["endpoint"]["hostname"] for h in hosts if h["health_status"] == "DRAINING"}


def test_each_router_has_files_and_a_process(sim: Sim, two: Session) -> None:
    changed = Runner(lambda _: None).phase(1, "router", lambda: router.file_steps(two))
    assert sorted(c.node for c in changed) == ["h5", "head"]
    first, second = sim.nodes["head"], sim.nodes["h5"]
    eds = "xds/eds/chat.main.yaml"
    assert first.files[f"{first.folder.router}/{eds}"] == second.files[f"{second.folder.router}/{eds}"]
    assert [p.node for p in router.desired_processes(two)] == ["head", "h5"]
    assert router_url(two) == "http://10.0.0.99:8080"


def test_requests_of_all_routers_are_in_flight(sim: Sim, two: Session) -> None:
    sim.active["chat-h1-0"] = 2
    assert in_flight(two, [("h1", "chat-h1-0")]) == {"chat-h1-0": 4}
    sim.nodes["h5"].pages["/clusters"] = lambda: "nothing of sense"
    assert in_flight(two, [("h1", "chat-h1-0")]) == {"chat-h1-0": 2}


def test_a_router_that_is_away_is_told_and_left_out(sim: Sim, two: Session) -> None:
    two.lose("h5", TransportError("no route", node="h5"))
    sim.nodes["h5"].die()
    router.connect_others(two)
    (note,) = sim.notes()
    assert note.startswith("h5: its router keeps the old configuration, `llmfleet router reload` tells it")
    assert [step.node for step in router.file_steps(two)] == ["head"]


def test_it_comes_and_goes_with_the_plan(sim: Sim) -> None:
    one = make_plan(EMPTY)
    sim.plan = one
    up(sim.fleet)
    assert "h5" not in sim.living()
    sim.plan = with_second(one)
    assert [(c.node, c.title) for c in up(sim.fleet).changed if c.node != "head"] == [
        ("h5", "copy scripts"), ("h5", "router configuration"), ("h5", "start router"),
    ]  # fmt: skip
    assert not up(sim.fleet).changed
    sim.plan = one
    up(sim.fleet)
    assert "h5" not in sim.living()
    assert "router" in sim.living()["head"]


def test_down_stops_both(sim: Sim) -> None:
    sim.plan = with_second(sim.plan)
    up(sim.fleet)
    down(sim.fleet)
    assert sim.living() == {}
    assert all(node.files == {} for node in sim.nodes.values())


def test_without_its_node_up_goes_on_where_it_may(sim: Sim) -> None:
    sim.plan = with_second(make_plan(EMPTY))
    sim.nodes["h5"].die()
    with pytest.raises(NodesError, match="h5"):
        up(sim.fleet)
    with pytest.raises(NodesError, match="the other nodes are up"):
        up(sim.fleet, UpOptions(skip_unreachable=True))
    assert "router" in sim.living()["head"]


def test_it_hears_of_a_drain_also_where_its_own_node_is_drained(sim: Sim) -> None:
    sim.plan = with_second(sim.plan)
    up(sim.fleet)
    drain(sim.fleet, "h5")
    drain(sim.fleet, "h2")
    assert drained_at(sim, "h5") == drained_at(sim, "head") == {"chat-h2-0"}
    assert sim.living()["h5"] == {"router"}
    assert not up(sim.fleet).changed


def test_what_it_missed_is_shown_and_mended(sim: Sim) -> None:
    sim.plan = with_second(sim.plan)
    up(sim.fleet)
    path = f"{sim.nodes['h5'].folder.router}/xds/rds.yaml"
    wanted = sim.nodes["h5"].files[path]
    sim.nodes["h5"].files[path] = b"of yesterday"
    assert list(router_diff(sim.fleet)) == ["h5:xds/rds.yaml"]
    assert [c.node for c in router_reload(sim.fleet).changed] == ["h5"]
    assert (sim.nodes["h5"].files[path], router_diff(sim.fleet)) == (wanted, {})


def test_a_node_with_nothing_but_a_router_is_not_drained(sim: Sim) -> None:
    sim.plan = with_second(make_plan(EMPTY))
    up(sim.fleet)
    with pytest.raises(StateError, match='"h5" carries a router and no instance'):
        drain(sim.fleet, "h5")


def test_status_has_each_and_their_sum(sim: Sim) -> None:
    sim.plan = with_second(sim.plan)
    up(sim.fleet)
    sim.active["chat-h1-0"] = 3
    sim.nodes["h5"].processes["router"]["state"] = "exited"
    seen = status(sim.fleet)
    assert [(r.node, r.address, r.state) for r in seen.routers] == [
        ("head", "http://10.0.0.0:8080", "healthy"), ("h5", "http://10.0.0.5:8080", "stopped"),
    ]  # fmt: skip
    assert (seen.router.address, seen.router.active["chat-h1-0"]) == ("http://10.0.0.99:8080", 3)
    assert any(problem.startswith("the router on h5 is stopped") for problem in seen.problems)
    sim.nodes["h5"].processes["router"]["state"] = "healthy"
    assert (status(sim.fleet).router.active["chat-h1-0"], status(sim.fleet).problems) == (6, ())
