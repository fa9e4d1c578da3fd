"""Drain and undrain on simulated nodes: nothing is cut, and the router forgets a node whatever state it is in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from sim_fleet import HOME, PIPELINE, Sim, errors_of, instance, make_inventory, make_plan

from llmfleet.launch.drain import capacity_left, drain, undrain
from llmfleet.launch.router_view import router_reload, router_show
from llmfleet.planner.errors import HealthError, InputError, NodesError, StateError, TransportError
from llmfleet.planner.plan import Pool


def drained_in_router(sim: Sim) -> set[str]:
    hosts = yaml.safe_load(sim.eds("chat.main"))["resources"][0]["endpoints"][0]["lb_endpoints"]
    return {h["endpoint"]["hostname"] for h in hosts if h["health_status"] == "DRAINING"}


def test_a_node_leaves_the_router_and_then_stops(running: Sim) -> None:
    report = drain(running.fleet, "h2")
    assert (report.instances, report.changed) == (("chat-h2-0",), True)
    assert drained_in_router(running) == {"chat-h2-0"}
    assert running.nodes["h2"].actions == [("stop", "chat-h2-0")]
    assert (running.state()["drained"], running.state()["draining"]) == (["h2"], [])
    assert {c.service: (c.instances_left, c.instances_total) for c in report.left} == {"chat": (2, 3), "embed": (1, 1)}


def test_requests_finish_before_anything_stops(running: Sim) -> None:
    counts = iter([3, 2, 0, 1, 0, 0])  # an engine that was quiet once may have one more on its way
    seen = []

    def busy() -> str:
        running.active["chat-h2-0"] = next(counts)
        seen.append(running.active["chat-h2-0"])
        assert running.nodes["h2"].actions == []
        return running._clusters()

    running.nodes["head"].pages["/clusters"] = busy
    drain(running.fleet, "h2")
    assert seen == [3, 2, 0, 1, 0, 0]


def test_what_only_the_engine_counts_is_waited_for_too(running: Sim) -> None:
    running.nodes["h2"].running["chat-h2-0"] = 1
    with pytest.raises(HealthError, match="1 requests are still running after 0 s: chat-h2-0 1"):
        drain(running.fleet, "h2", timeout_s=0)


def test_a_drain_that_takes_too_long_stops_nothing_and_may_be_gone_on_with(running: Sim) -> None:
    running.active["chat-h2-0"] = 2
    with pytest.raises(HealthError) as caught:
        drain(running.fleet, "h2", timeout_s=0)
    assert "--force" in caught.value.hint
    assert running.nodes["h2"].actions == []
    assert running.state()["draining"] == ["h2"]
    head = running.nodes["head"]
    assert json.loads(head.files[head.folder.state])["draining"] == ["h2"]
    assert drained_in_router(running) == {"chat-h2-0"}
    running.active.clear()
    assert drain(running.fleet, "h2").changed
    assert (running.state()["drained"], running.state()["draining"]) == (["h2"], [])


def test_force_cuts_what_is_left(running: Sim) -> None:
    running.active["chat-h2-0"] = 2
    drain(running.fleet, "h2", timeout_s=0, force=True)
    assert running.notes() == [": cutting off 2 requests after 0 s"]
    assert running.nodes["h2"].actions == [("stop", "chat-h2-0")]


def test_twice_is_once(running: Sim) -> None:
    drain(running.fleet, "h2")
    assert not drain(running.fleet, "h2").changed
    assert running.nodes["h2"].actions == [("stop", "chat-h2-0")]


def test_half_a_pipeline_takes_the_whole_with_it(running: Sim) -> None:
    assert drain(running.fleet, "h4").instances == (PIPELINE,)
    assert drained_in_router(running) == {PIPELINE}
    assert running.nodes["h3"].actions == [("stop", PIPELINE)]
    assert running.nodes["h4"].actions == [("stop", "ray-worker")]
    undrain(running.fleet, "h4")
    assert PIPELINE in running.living()["h3"]
    assert drained_in_router(running) == set()


def test_an_unreachable_node_leaves_the_router_all_the_same(running: Sim) -> None:
    running.nodes["h2"].die()
    report = drain(running.fleet, "h2")
    assert report.changed
    assert drained_in_router(running) == {"chat-h2-0"}
    assert running.state()["drained"] == ["h2"]
    assert "h2/chat-h2-0" in running.state()["processes"]
    assert running.notes()[0].startswith("h2: it cannot be reached, and what may run on it goes on")


def test_a_node_that_dies_while_its_requests_finish(running: Sim) -> None:
    running.nodes["h2"].dies_at = lambda argv: "probe.py" in argv[1]
    drain(running.fleet, "h2")
    assert running.state()["drained"] == ["h2"]
    assert any("cannot be reached" in note for note in running.notes())


def test_requests_on_a_node_that_only_the_router_still_reaches_are_waited_for(running: Sim) -> None:
    running.nodes["h2"].die()
    running.active["chat-h2-0"] = 1
    with pytest.raises(HealthError, match="chat-h2-0 1"):
        drain(running.fleet, "h2", timeout_s=0)


def test_a_node_that_lies_is_stopped_on_the_router_s_word(running: Sim) -> None:
    running.nodes["h2"].reply("probe.py", "what?")
    drain(running.fleet, "h2")
    assert running.nodes["h2"].actions == [("stop", "chat-h2-0")]


def test_without_the_head_nothing_can_be_drained(running: Sim) -> None:
    running.nodes["head"].die()
    with pytest.raises(NodesError, match="connect to the head"):
        drain(running.fleet, "h2")


def test_the_head_alone_has_nothing_to_drain(running: Sim) -> None:
    with pytest.raises(StateError, match="carries the router and no instance"):
        drain(running.fleet, "head")


def test_nobody_s_node(running: Sim) -> None:
    for operation in (drain, undrain):
        with pytest.raises(InputError, match='no node "h9"') as caught:
            operation(running.fleet, "h9")
        assert "head, h1" in caught.value.hint


def test_nothing_is_up(sim: Sim) -> None:
    for operation in (
        lambda: drain(sim.fleet, "h2"),
        lambda: undrain(sim.fleet, "h2"),
        lambda: router_reload(sim.fleet),
    ):
        with pytest.raises(StateError, match="nothing is up"):
            operation()
    assert sim.living() == {}


def test_a_plan_that_was_never_put_in_place_does_not_reach_the_router(running: Sim) -> None:
    before = dict(running.nodes["head"].files)
    running.plan = make_plan(port=8300)
    for operation in (
        lambda: drain(running.fleet, "h2"),
        lambda: undrain(running.fleet, "h2"),
        lambda: router_reload(running.fleet),
    ):
        with pytest.raises(StateError, match="there is a newer one") as caught:
            operation()
        assert "llmfleet up" in caught.value.hint
    assert {k: v for k, v in running.nodes["head"].files.items() if "xds" in k} == {
        k: v for k, v in before.items() if "xds" in k
    }


def test_undrain_twice_is_once(running: Sim) -> None:
    drain(running.fleet, "h2")
    assert [(c.node, c.title) for c in undrain(running.fleet, "h2").changed] == [
        ("h2", "start chat-h2-0"),
        ("head", "router configuration"),
    ]
    assert undrain(running.fleet, "h2").changed == ()
    assert any("it was not drained" in note for note in running.notes("info"))


def test_undrain_of_a_dead_node_leaves_it_drained(running: Sim) -> None:
    drain(running.fleet, "h2")
    running.nodes["h2"].die()
    with pytest.raises(NodesError) as caught:
        undrain(running.fleet, "h2")
    assert (set(errors_of(caught.value)), caught.value.exit_code) == ({"h2"}, 3)
    assert running.state()["drained"] == ["h2"]


def test_another_dead_node_does_not_keep_one_from_coming_back(running: Sim) -> None:
    drain(running.fleet, "h2")
    running.nodes["h5"].die()
    with pytest.raises(NodesError, match="the other nodes are up") as caught:
        undrain(running.fleet, "h2")
    assert set(errors_of(caught.value)) == {"h5"}
    assert running.living()["h2"] == {"chat-h2-0"}
    assert drained_in_router(running) == set()


def test_an_error_in_the_middle_of_stopping_leaves_it_draining(running: Sim) -> None:
    running.nodes["h2"].reply("supervise.py stop", error=TransportError("connection lost"))
    with pytest.raises(NodesError, match="h2: connection lost"):
        drain(running.fleet, "h2")
    assert running.state()["draining"] == ["h2"]


def test_show_touches_no_node_and_knows_what_is_drained(running: Sim) -> None:
    drain(running.fleet, "h2")
    for node in running.nodes.values():
        node.commands.clear()
    files = router_show(running.fleet)
    assert "DRAINING" in files["xds/eds/chat.main.yaml"]
    assert not any(node.commands for node in running.nodes.values())
    running.inventory = make_inventory({"h1": "no.such.host.invalid"})
    with pytest.raises(InputError, match="cannot be resolved on this machine"):
        router_show(running.fleet)


def test_reload_writes_what_differs(running: Sim) -> None:
    assert router_reload(running.fleet).changed == ()
    head = running.nodes["head"]
    head.files[f"{head.folder.router}/xds/rds.yaml"] = b"by hand"
    assert [c.title for c in router_reload(running.fleet).changed] == ["router configuration"]
    assert head.files[f"{head.folder.router}/xds/rds.yaml"] != b"by hand"


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ((), {"chat": (3, 3, 1.0), "embed": (1, 1, 1.0)}),
        (("h1",), {"chat": (2, 3, 5 / 7), "embed": (1, 1, 1.0)}),
        (("h3",), {"chat": (2, 3, 4 / 7), "embed": (1, 1, 1.0)}),
        (("h3", "h4"), {"chat": (2, 3, 4 / 7), "embed": (1, 1, 1.0)}),
        (("h5",), {"chat": (3, 3, 1.0), "embed": (0, 1, 0.0)}),
    ],
)
def test_capacity_left(out: tuple[str, ...], expected: dict[str, tuple[int, int, float]]) -> None:
    """The pipeline has no capacity of its own in the plan: what it is expected to do counts, 3 requests/s."""
    plan = make_plan()
    bare = tuple(replace(i, capacity_rps=0) if i.id == PIPELINE else i for i in plan.instances)
    left = capacity_left(replace(plan, instances=bare), frozenset(out))
    assert {c.service: (c.instances_left, c.instances_total, pytest.approx(c.share)) for c in left} == expected


def test_an_instance_of_two_pools_counts_once() -> None:
    plan = make_plan({k: v for k, v in HOME.items() if k.startswith("chat")})
    both = Pool("long", ("chat-h1-0",), 0.2, "long", 16_000)
    service = replace(plan.services[0], pools=(*plan.services[0].pools, both))
    assert capacity_left(replace(plan, services=(service,)), frozenset())[0].instances_total == 3


def test_no_instances_have_no_capacity() -> None:
    nothing = replace(instance("chat-h1-0", ("h1",)), capacity_rps=0)
    plan = replace(make_plan({"chat-h1-0": ("h1",)}), instances=(nothing,))
    assert capacity_left(plan, frozenset({"h1"}))[0].share == 0.0
