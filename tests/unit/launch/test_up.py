"""`up` on simulated nodes: what it starts and stops, and what a night may bring in the middle of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sim_fleet import HOME, PIPELINE, Sim, errors_of, make_inventory, make_plan

from llmfleet.launch.drain import drain
from llmfleet.launch.phases import verify
from llmfleet.launch.record.lock import HeadLock
from llmfleet.launch.up import PHASES, UpOptions, up
from llmfleet.planner.errors import HealthError, InputError, LockedError, NodesError, StateError

ALL = {
    "head": {"ray-head", "router"},
    "h1": {"chat-h1-0"},
    "h2": {"chat-h2-0"},
    "h3": {PIPELINE, "ray-worker"},
    "h4": {"ray-worker"},
    "h5": {"embed-h5-0"},
}


def test_everything_runs_where_the_plan_says_and_a_second_up_changes_nothing(sim: Sim) -> None:
    report = up(sim.fleet)
    assert sim.living() == ALL
    assert report.address == "http://10.0.0.0:8080"
    assert set(sim.state()["processes"]) == {f"{node}/{name}" for node, names in ALL.items() for name in names}
    before = (sim.state(), dict(sim.nodes["head"].files))
    assert up(sim.fleet).changed == ()
    assert (sim.state(), dict(sim.nodes["head"].files)) == before


def test_a_dry_run_says_the_same_and_writes_nothing(sim: Sim) -> None:
    planned = up(sim.fleet, UpOptions(dry_run=True))
    assert not sim.folder.joinpath("state.json").exists()
    assert all(not node.files and not node.processes for node in sim.nodes.values())
    assert planned.changed == up(sim.fleet).changed


def test_the_head_has_the_state_after_every_phase_and_after_a_failure(sim: Sim) -> None:
    sim.nodes["h2"].born["chat-h2-0"] = "failed"
    with pytest.raises(NodesError) as caught:
        up(sim.fleet)
    assert "chat-h2-0 did not start: out of memory" in errors_of(caught.value)["h2"]
    assert "llmfleet logs chat-h2-0" in str(caught.value)
    head = sim.nodes["head"]
    assert head.files[head.folder.state] == (sim.folder / "state.json").read_bytes()
    assert "h2/chat-h2-0" in sim.state()["processes"]


def test_an_engine_that_failed_is_started_again_and_no_other(sim: Sim) -> None:
    sim.nodes["h2"].born["chat-h2-0"] = "failed"
    with pytest.raises(NodesError):
        up(sim.fleet)
    sim.nodes["h2"].born.clear()
    assert [(c.node, c.title) for c in up(sim.fleet).changed] == [("h2", "start chat-h2-0")]


def test_a_host_that_dies_while_it_is_waited_for_does_not_hide_the_others(sim: Sim) -> None:
    sim.nodes["h1"].born["chat-h1-0"] = "failed"
    sim.nodes["h2"].dies_at = lambda argv: "status" in argv and bool(sim.nodes["h2"].processes)
    with pytest.raises(NodesError) as caught:
        up(sim.fleet)
    assert caught.value.exit_code == 3
    assert set(errors_of(caught.value)) == {"h1", "h2"}
    assert sim.living() == ALL | {"h1": {"chat-h1-0"}}, "the others were started"


def test_a_start_without_end_is_given_up(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmfleet.launch.phases.instances.SUPERVISOR_MARGIN_S", -10_000)
    sim.nodes["h1"].born["chat-h1-0"] = "starting"
    with pytest.raises(NodesError, match=r"it is starting after \d+ s"):
        up(sim.fleet)


def test_dead_nodes_are_all_named_at_once_and_nothing_was_touched(sim: Sim) -> None:
    sim.nodes["h1"].die()
    sim.nodes["h5"].die()
    with pytest.raises(NodesError) as caught:
        up(sim.fleet)
    assert (set(errors_of(caught.value)), caught.value.exit_code) == ({"h1", "h5"}, 3)
    assert all(not node.processes for node in sim.nodes.values())


def test_unreachable_nodes_may_be_skipped_and_are_told_at_the_end(running: Sim) -> None:
    running.nodes["h4"].die()
    with pytest.raises(NodesError, match="the other nodes are up") as caught:
        up(running.fleet, UpOptions(skip_unreachable=True))
    assert (set(errors_of(caught.value)), caught.value.exit_code) == ({"h4"}, 3)
    assert running.living() == {k: v for k, v in ALL.items() if k not in ("h3", "head")} | {"head": {"router"}}
    assert "h4/ray-worker" in running.state()["processes"], "what may run on h4 must stay on record"
    assert "10.0.0.3" in running.eds("chat.main"), "the router keeps the place of what is away"


def test_a_dry_run_without_the_dead_lists_steps_and_raises_nothing(sim: Sim) -> None:
    sim.nodes["h1"].die()
    report = up(sim.fleet, UpOptions(dry_run=True, skip_unreachable=True))
    assert report.skipped_nodes == ("h1",)
    assert report.changed


def test_the_head_is_needed(sim: Sim) -> None:
    sim.nodes["head"].die()
    with pytest.raises(NodesError, match="connect to the head") as caught:
        up(sim.fleet, UpOptions(skip_unreachable=True))
    assert caught.value.exit_code == 3


def test_what_the_plan_no_longer_has_is_stopped(running: Sim) -> None:
    running.plan = make_plan({**HOME, "chat-h2-0": ("h5",)}, port=8200)
    done = {(c.node, c.title) for c in up(running.fleet).changed}
    assert ("h5", "start chat-h2-0") in done
    assert "chat-h2-0" not in running.living().get("h2", set())


def test_an_instance_is_stopped_also_where_its_node_left_plan_and_inventory(running: Sim) -> None:
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "chat-h2-0"})
    running.inventory = make_inventory({"h2": ""})
    assert [(c.node, c.title) for c in up(running.fleet).changed if c.node == "h2"] == [
        ("h2", "stop chat-h2-0, which is no longer needed"),
    ]
    assert "h2" not in running.living()
    assert "h2/chat-h2-0" not in running.state()["processes"]
    assert up(running.fleet).changed == ()


def test_a_node_that_left_the_plan_and_is_dead_stops_nobody(running: Sim) -> None:
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "chat-h2-0"})
    running.nodes["h2"].die()
    up(running.fleet, UpOptions(skip_unreachable=True))
    assert any(n.startswith("h2: the plan no longer uses it") for n in running.notes())
    assert "h2/chat-h2-0" in running.state()["processes"]


def test_an_excluded_node_is_left_alone(running: Sim) -> None:
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "chat-h2-0"})
    running.inventory = make_inventory(h2={"exclude": True})
    running.nodes["h2"].commands.clear()
    up(running.fleet)
    assert running.nodes["h2"].commands == []
    assert any(n.startswith("h2: excluded in the inventory") for n in running.notes())


def test_a_drained_head_keeps_its_router_and_its_instances_stay_stopped(sim: Sim) -> None:
    sim.plan = make_plan({**HOME, "embed-head-0": ("head",)})
    sim.inventory = make_inventory(head={"gpus": "1 x CPU-4G"})
    up(sim.fleet)
    assert drain(sim.fleet, "head").instances == ("embed-head-0",)
    assert sim.living()["head"] == {"router", "ray-head"}
    assert up(sim.fleet).changed == ()


def test_a_drain_that_has_not_ended_is_not_cut_short(running: Sim) -> None:
    running.active[PIPELINE] = 1
    with pytest.raises(HealthError):
        drain(running.fleet, "h4", timeout_s=0)
    assert up(running.fleet).changed == (), "its engine and its Ray still work off a request"
    assert PIPELINE in running.living()["h3"]


def test_names_are_resolved_for_every_planned_node_also_a_drained_one(sim: Sim) -> None:
    hosts = {name: f"{name}.example" for name in ("h1", "h2", "h3")}
    sim.inventory = make_inventory(hosts)
    sim.nodes["head"].hosts = {h: f"10.9.9.{n}" for n, h in enumerate(hosts.values())}
    up(sim.fleet)
    drain(sim.fleet, "h2")
    up(sim.fleet)
    assert all(f"10.9.9.{n}" in sim.eds("chat.main") for n in range(3))


def test_all_names_without_an_address_are_told_at_once(sim: Sim) -> None:
    sim.inventory = make_inventory({"h1": "h1.example", "h2": "h2.example", "h3": "h3.example"})
    sim.nodes["head"].hosts = {"h3.example": "127.0.1.1"}
    with pytest.raises(NodesError) as caught:
        up(sim.fleet)
    assert {n: m.split('"')[0] for n, m in errors_of(caught.value).items()} == {
        "h1": "the head node cannot resolve ",
        "h2": "the head node cannot resolve ",
        "h3": "the head node resolves ",
    }
    assert "127.0.1.1" in str(caught.value)


def test_a_chatty_login_shell_changes_nothing(sim: Sim) -> None:
    sim.inventory = make_inventory({"h1": "h1.example"})
    sim.nodes["head"].hosts = {"h1.example": "10.9.9.1"}
    for node in sim.nodes.values():
        node.chatter = "\x1b[1mWelcome!\x1b[0m\n\n"
    up(sim.fleet)
    assert sim.living() == ALL
    assert up(sim.fleet).changed == ()


def test_a_wrong_clock_on_a_node_means_nothing(sim: Sim) -> None:
    for node in sim.nodes.values():
        node.facts |= {"epoch": 4e9}
    up(sim.fleet)
    assert up(sim.fleet).changed == ()


@pytest.mark.parametrize("answer", ["", "{}", "null", '{"hostname": 3}', "[1, 2", "\x1b[0m"])
def test_a_node_that_answers_nonsense_is_named(sim: Sim, answer: str) -> None:
    sim.nodes["h1"].reply(("python3", "-"), answer)
    with pytest.raises(NodesError) as caught:
        up(sim.fleet)
    assert "asked for its facts, the node said" in errors_of(caught.value)["h1"]
    assert "Does python3 work there?" in str(caught.value)


def test_a_node_without_python_is_named(sim: Sim) -> None:
    sim.nodes["h1"].reply(("python3", "-"), exit_code=127)
    with pytest.raises(NodesError, match="there is no Python at python3"):
        up(sim.fleet)


def test_process_states_that_make_no_sense_are_not_taken_for_none(running: Sim) -> None:
    running.nodes["h1"].reply("supervise.py status", exit_code=1, stderr="MemoryError")
    with pytest.raises(NodesError, match="h1: its process states cannot be read: MemoryError"):
        up(running.fleet)


def test_the_router_must_reach_every_instance(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ANSWER_WITHIN_S", -1)
    sim.flags["chat-h1-0"] = "failed_active_health_check"
    with pytest.raises(HealthError, match="cannot reach chat-h1-0") as caught:
        up(sim.fleet)
    assert "firewall" in caught.value.hint


def test_the_router_must_list_every_service(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ANSWER_WITHIN_S", -1)
    sim.nodes["head"].pages["/v1/models"] = lambda: '{"data": [{"id": "chat"}]}'
    with pytest.raises(HealthError, match="does not list embed: HTTP status 200"):
        up(sim.fleet)


def test_another_run_on_the_head_is_named(sim: Sim) -> None:
    sim.nodes["head"].lock_says = '{"user": "ann", "host": "desk", "pid": 7, "command": "up", "since": "now"}'
    with pytest.raises(LockedError, match="ann on desk") as caught:
        up(sim.fleet)
    assert caught.value.exit_code == 4
    assert not any(node.actions for node in sim.nodes.values())


def test_a_lost_lock_stops_the_next_step(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    started = sim.nodes["head"].actions
    monkeypatch.setattr(HeadLock, "lost", property(lambda _: bool(started)))
    with pytest.raises((StateError, NodesError), match="lock on the head node was lost"):
        up(sim.fleet)
    assert sim.living() == {"head": {"ray-head"}}, "the first start was the last"
    head = sim.nodes["head"]
    assert b"ray-head" not in head.files.get(head.folder.state, b""), "the copy belongs to whoever holds the lock now"


def test_a_host_that_moved_is_told(running: Sim) -> None:
    running.inventory = make_inventory({"h1": "10.7.7.7"})
    up(running.fleet)
    assert any(n.startswith("h1: it was at 10.0.0.1 before") for n in running.notes())


def test_a_process_that_is_stopping_is_waited_out_and_started(running: Sim) -> None:
    running.nodes["h1"].processes["chat-h1-0"]["state"] = "stopping"
    up(running.fleet)
    assert running.nodes["h1"].actions[-2:] == [("stop", "chat-h1-0"), ("start", "chat-h1-0")]


def test_another_command_line_is_a_restart(running: Sim) -> None:
    running.plan = replace(make_plan(max_num_seqs=8))
    done = [c.title for c in up(running.fleet).changed if c.node == "h1"]
    assert done == ["stop chat-h1-0, to be replaced", "start chat-h1-0"]


def test_a_mistake_in_an_option_is_told_before_a_node_is_asked(sim: Sim) -> None:
    with pytest.raises(InputError, match="is no number of nodes"):
        up(sim.fleet, UpOptions(max_unavailable="many"))
    assert not any(node.commands for node in sim.nodes.values())


def test_phases_are_listed_in_order() -> None:
    assert [name for name, _ in PHASES][:5] == ["connect", "facts", "checks", "compare", "scripts"]


@pytest.mark.parametrize(
    ("discovered", "named", "wanted"),
    [("bond0", None, "bond0"), ("bond0", "ib0", "ib0"), ("lo", None, None), (None, None, None)],
)
def test_nccl_is_given_the_interface_of_the_nodes_address(
    sim: Sim, discovered: str | None, named: str | None, wanted: str | None
) -> None:
    for node in sim.nodes.values():
        interfaces = {"ib0": {"mtu": 1500, "mbits": None}, "bond0": {"mtu": 1500, "mbits": None}}
        node.facts |= {"interface": discovered, "interfaces": interfaces}
    if named:
        sim.inventory = make_inventory(h1={"runtime": {"interface": named}})
    up(sim.fleet)
    specs = [json.loads(text) for path, text in sim.nodes["h1"].files.items() if path.endswith("chat-h1-0/spec.json")]
    assert [spec["env"].get("NCCL_SOCKET_IFNAME") for spec in specs] == [wanted]
