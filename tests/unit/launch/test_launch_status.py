"""What `status` says of a fleet, and whether it calls it well: a table of situations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sim_fleet import HOME, PIPELINE, Sim, make_inventory, make_plan

from llmfleet.launch.drain import drain
from llmfleet.launch.status import status
from llmfleet.launch.up import up
from llmfleet.planner.errors import HealthError, StateError, TransportError


def states(sim: Sim) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Nodes and instances that are not as usual, and the problems."""
    found = status(sim.fleet)
    assert found.ok == (not found.problems)
    nodes = {n.name: n.state for n in found.nodes if n.state != "ready"}
    return nodes, {i.id: i.state for i in found.instances if i.state != "healthy"}, found.problems


def test_all_is_well(running: Sim) -> None:
    running.active["chat-h1-0"] = running.nodes["h1"].running["chat-h1-0"] = 2
    found = status(running.fleet)
    assert states(running) == ({}, {}, ())
    assert (found.router.state, found.router.address) == ("healthy", "http://10.0.0.0:8080")
    assert (found.router.active["chat-h1-0"], found.router.requests["chat-h1-0"]) == (2, 7)
    assert found.ray is not None
    assert (found.ray.state, found.ray.nodes) == ("healthy", ("h3", "h4", "head"))
    assert {i.id: (i.nodes, i.address) for i in found.instances}[PIPELINE] == (("h3", "h4"), "http://10.0.0.3:8100")
    assert {i.id: i.running for i in found.instances}["chat-h1-0"] == 2


def process(node: str, name: str, **changes: object) -> Callable[[Sim], None]:
    return lambda sim: sim.nodes[node].processes[name].update(changes)


def dead(*nodes: str) -> Callable[[Sim], None]:
    def kill(sim: Sim) -> None:
        for node in nodes:
            sim.nodes[node].die()

    return kill


def says(node: str, pattern: str, stdout: str = "", exit_code: int = 0) -> Callable[[Sim], None]:
    return lambda sim: sim.nodes[node].reply(pattern, stdout, exit_code=exit_code) and None


Row = tuple[Callable[[Sim], None], dict[str, str], dict[str, str], tuple[str, ...]]
SITUATIONS: dict[str, Row] = {
    "an engine starts": (
        process("h1", "chat-h1-0", state="starting"),
        {"h1": "degraded"}, {"chat-h1-0": "starting"}, ("chat-h1-0 is starting",),
    ),
    "an engine hangs": (
        process("h1", "chat-h1-0", state="unhealthy", last_error="hung: no good answer"),
        {"h1": "degraded"}, {"chat-h1-0": "unhealthy"}, ("chat-h1-0 is unhealthy: hung: no good answer",),
    ),
    "an engine failed": (
        process("h1", "chat-h1-0", state="failed", last_error="out of memory"),
        {"h1": "degraded"}, {"chat-h1-0": "stopped"}, ("chat-h1-0 is stopped: out of memory",),
    ),
    "an engine is stopping": (
        process("h1", "chat-h1-0", state="stopping"),
        {"h1": "degraded"}, {"chat-h1-0": "draining"}, ("chat-h1-0 is draining",),
    ),
    "an engine was never started": (
        lambda sim: sim.nodes["h1"].processes.clear(),
        {"h1": "degraded"}, {"chat-h1-0": "stopped"}, ("chat-h1-0 is stopped: not started",),
    ),
    "a node is dead": (
        dead("h1"), {"h1": "unreachable"}, {"chat-h1-0": "unhealthy"},
        ("h1 is unreachable, and with it chat-h1-0: 10.0.0.9:22 did not answer",),
    ),
    "the second half of a pipeline is dead": (
        dead("h4"), {"h4": "unreachable"}, {},
        ("h4 is unreachable: 10.0.0.9:22 did not answer",),
    ),
    "a node lies": (
        says("h1", "probe.py", '{"processes": [{"name": 1}], "engines": {}}'),
        {"h1": "unreachable"}, {"chat-h1-0": "unhealthy"},
        ("h1 is unreachable, and with it chat-h1-0: the node's answer makes no sense",),
    ),
    "a node's Python broke": (
        says("h1", "probe.py", exit_code=1),
        {"h1": "unreachable"}, {"chat-h1-0": "unhealthy"},
        ("h1 is unreachable, and with it chat-h1-0: it could not say what runs there",),
    ),
    "the router does not run": (
        process("head", "router", state="failed", last_error="address in use"),
        {}, {}, ("the router is stopped: address in use",),
    ),
    "the router's admin page is silent": (
        says("head", "fetch.py", "[]"), {}, {},
        ("the router is unhealthy: its admin address does not answer",),
    ),
    "the router cannot reach an engine": (
        lambda sim: sim.flags.update({"chat-h1-0": "failed_active_health_check"}), {}, {},
        ("the router does not reach chat-h1-0: failed_active_health_check",),
    ),
    "a node left Ray": (
        says("head", "ray.scripts", " 0/1.0 llmfleet_node_h3\n"), {}, {}, ("Ray is unhealthy: missing: h4",),
    ),
    "Ray's head is silent": (
        says("head", "ray.scripts", exit_code=1), {}, {}, ("Ray is unhealthy: the Ray head does not answer",),
    ),
    "Ray's head does not run": (
        process("head", "ray-head", state="exited"), {}, {}, ("Ray is stopped: not started",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation(running: Sim, name: str) -> None:
    make, nodes, instances, problems = SITUATIONS[name]
    make(running)
    found = states(running)
    assert found[:2] == (nodes, instances)
    assert len(found[2]) == len(problems), found[2]
    for said, wanted in zip(found[2], problems, strict=True):
        assert said.startswith(wanted)


def test_a_drained_node_is_as_it_should_be(running: Sim) -> None:
    drain(running.fleet, "h2")
    assert states(running) == ({"h2": "drained"}, {"chat-h2-0": "stopped"}, ())
    assert {i.id: i.reason for i in status(running.fleet).instances}["chat-h2-0"] == "h2 drained"
    running.nodes["h2"].die()
    assert states(running)[0] == {"h2": "drained"}
    assert states(running)[2] == ()
    assert next(n for n in status(running.fleet).nodes if n.name == "h2").reason.startswith("unreachable")


def test_a_drain_in_its_course(running: Sim) -> None:
    running.active["chat-h2-0"] = 1
    with pytest.raises(HealthError):
        drain(running.fleet, "h2", timeout_s=0)
    assert states(running)[1:] == ({"chat-h2-0": "draining"}, ())


def test_the_head_is_away(running: Sim) -> None:
    running.nodes["head"].die()
    found = status(running.fleet)
    assert (found.router.state, found.ray, found.unreachable) == ("unreachable", None, ("head",))
    assert {i.state for i in found.instances} == {"healthy"}


def test_the_head_dies_in_the_middle(running: Sim) -> None:
    running.nodes["head"].get = lambda path: (_ for _ in ()).throw(TransportError(path))  # type: ignore[method-assign]
    assert status(running.fleet).router.state == "unreachable"
    running.nodes["head"].dies_at = lambda argv: "fetch.py" in argv[1]
    assert status(running.fleet).router.state in ("unhealthy", "unreachable")


def test_everything_is_away(running: Sim) -> None:
    dead(*running.nodes)(running)
    found = status(running.fleet)
    assert (len(found.unreachable), found.ok) == (6, False)


def test_what_another_machine_put_in_place_is_no_older_plan(running: Sim) -> None:
    """Of two that work on the fleet, the one whose plan.json is that of yesterday would undo what the other did."""
    mine = running.plan
    running.plan = make_plan({**HOME, "chat-h2-0": ("h5",)}, port=8200)
    up(running.fleet)
    running.plan = mine
    assert any("goes back to that, which was up before it" in p for p in status(running.fleet).problems)
    with pytest.raises(StateError, match=r"plan\.json here is still the one before it") as caught:
        drain(running.fleet, "h1")
    assert "Take inventory.yaml over from there" in caught.value.hint


def test_a_node_that_left_the_inventory_is_not_called_unreachable(running: Sim) -> None:
    running.inventory = make_inventory({"h2": ""})
    found = next(i for i in status(running.fleet).instances if i.id == "chat-h2-0")
    assert found.reason == "h2 no longer in the inventory"


def test_another_plan_is_told(running: Sim) -> None:
    old = running.plan.hash
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "embed-h5-0"})
    assert states(running)[2] == (
        f"up ran with plan {old}, the plan is now {running.plan.hash}: `llmfleet up` applies it",
    )


def test_a_plan_without_instances_over_several_nodes_has_no_ray(sim: Sim) -> None:
    sim.plan = make_plan({"chat-h1-0": ("h1",)})
    up(sim.fleet)
    assert status(sim.fleet).ray is None


def test_before_the_first_up(sim: Sim) -> None:
    found = status(sim.fleet)
    assert {i.reason for i in found.instances} == {"not started"}
    assert found.router.state == "stopped"
    assert not found.ok


def test_it_writes_nothing_anywhere(running: Sim) -> None:
    (running.folder / "state.json").unlink()
    files = {name: dict(node.files) for name, node in running.nodes.items()}
    assert status(running.fleet).ok
    assert not (running.folder / "state.json").exists()
    assert {name: dict(node.files) for name, node in running.nodes.items()} == files


def test_a_broken_copy_of_the_state_is_told_and_passed_over(running: Sim) -> None:
    head = running.nodes["head"]
    head.files[head.folder.state] = b"{"
    assert status(running.fleet).ok
    assert "is not a state file" in running.notes()[0]


def test_a_chatty_shell_and_names(sim: Sim) -> None:
    sim.inventory = make_inventory({"h1": "h1.example"})
    sim.nodes["head"].hosts = {"h1.example": "10.9.9.1"}
    for node in sim.nodes.values():
        node.chatter = "Welcome!\n"
    up(sim.fleet)
    found = status(sim.fleet)
    assert found.ok
    assert found.instances[0].address == "http://10.9.9.1:8100"
    sim.nodes["head"].hosts.clear()
    assert status(sim.fleet).instances[0].address == "http://h1.example:8100"


def test_a_node_that_nobody_knows_any_more(sim: Sim) -> None:
    sim.inventory = make_inventory({"h1": ""})
    with pytest.raises(StateError, match='no node "h1"') as caught:
        status(sim.fleet)
    assert "Plan again" in caught.value.hint
