"""`up` with another plan on simulated nodes: what is taken out, stopped and started in which order; the way back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from sim_fleet import HOME, PIPELINE, Sim, make_plan

from llmfleet.cli.progress import plain_line
from llmfleet.launch.drain import drain
from llmfleet.launch.events import PlanChanged, StepDone
from llmfleet.launch.phases.router import with_old_clusters
from llmfleet.launch.record.applied import find_applied, fleet_of
from llmfleet.launch.up import UpOptions, up
from llmfleet.planner.errors import HealthError, InputError, NodesError, StateError
from llmfleet.planner.plan import Plan, sealed

NEW = make_plan(max_num_seqs=8)


def endpoints(sim: Sim, cluster: str = "chat.main") -> dict[str, tuple[str, int]]:
    """Health word and port of each instance that the router knows."""
    hosts = yaml.safe_load(sim.eds(cluster))["resources"][0]["endpoints"][0]["lb_endpoints"]
    return {
        h["endpoint"]["hostname"]: (
            h["health_status"],
            (h["endpoint"].get("health_check_config") or h["endpoint"])["address"]["socket_address"]["port_value"],
        )
        for h in hosts
    }


def steps(sim: Sim) -> list[str]:
    return [e.title for e in sim.events if isinstance(e, StepDone) and e.changed]


def test_node_by_node_and_each_out_of_the_router_before_it_stops(running: Sim) -> None:
    seen: dict[str, str] = {}

    def look(name: str, node: str) -> None:
        running.nodes[node].dies_at = lambda argv: (
            "stop" in argv and seen.setdefault(name, endpoints(running)[name][0]) == ""
        )

    look("chat-h1-0", "h1")
    look("chat-h2-0", "h2")
    running.plan = NEW
    planned = up(running.fleet, UpOptions(dry_run=True)).changed
    report = up(running.fleet)
    assert report.changed == planned
    assert seen == {"chat-h1-0": "DRAINING", "chat-h2-0": "DRAINING"}
    assert {word for word, _ in endpoints(running).values()} == {"UNKNOWN"}
    h1 = [c.title for c in report.changed if "h1" in c.title]
    assert h1 == [
        "take chat-h1-0 out of rotation",
        "stop chat-h1-0, to be replaced",
        "start chat-h1-0",
        "give requests to chat-h1-0",
    ]
    order = [c.title for c in report.changed if c.title.startswith("start")]
    assert order == [f"start {n}" for n in HOME]
    assert up(running.fleet).changed == ()
    state = running.state()
    assert (state["complete"], state["plan_hash"]) == (True, NEW.hash)
    assert {p["plan"] for p in state["processes"].values() if p["kind"] == "engine"} == {NEW.hash}


def test_the_difference_of_the_plans_is_told_first_and_only_where_there_is_one(running: Sim) -> None:
    before = running.plan
    up(running.fleet)
    assert not [e for e in running.events if isinstance(e, PlanChanged)]
    running.plan = NEW
    up(running.fleet, UpOptions(dry_run=True))
    (told,) = [e.difference for e in running.events if isinstance(e, PlanChanged)]
    assert (told.before, told.after) == (before.hash, NEW.hash)
    assert {c.id for c in told.restarts} == set(HOME)
    lines = (plain_line(PlanChanged(told), dry_run=True) or "").splitlines()
    assert lines[0] == f"plan {before.hash[:6]} is up, plan {NEW.hash[:6]} is put in its place:"
    assert any("starts anew: requests at once" in line for line in lines[1:])


def test_requests_finish_before_an_engine_stops(running: Sim) -> None:
    counts = iter([2, 1, 0, 0])

    def busy() -> str:
        running.active["chat-h1-0"] = next(counts, 0)
        if running.active["chat-h1-0"]:
            assert running.nodes["h1"].actions == []
        return running._clusters()

    running.plan = NEW
    running.nodes["head"].pages["/clusters"] = busy
    up(running.fleet)
    assert next(counts, None) is None


def test_requests_that_do_not_finish_stop_the_roll(running: Sim) -> None:
    running.active["chat-h1-0"] = 1
    running.plan = NEW
    before = make_plan().hash[:6]
    with pytest.raises(HealthError, match="1 requests are still running after 0 s: chat-h1-0 1") as caught:
        up(running.fleet, UpOptions(drain_timeout_s=0))
    assert f"back with `llmfleet up --plan {before}`" in caught.value.hint
    assert running.nodes["h1"].actions == []
    up(running.fleet, UpOptions(drain_timeout_s=0, force=True))
    assert up(running.fleet).changed == ()


def test_the_first_failed_health_check_stops_it_and_names_the_way_back(running: Sim) -> None:
    before = running.plan
    running.plan = NEW
    running.nodes["h2"].born["chat-h2-0"] = "failed"
    with pytest.raises(NodesError) as caught:
        up(running.fleet)
    assert "chat-h2-0 did not start: out of memory" in str(caught.value)
    assert f"`llmfleet up --plan {before.hash[:6]}`" in caught.value.hint
    assert running.nodes["h5"].actions == [], "nothing after it was touched"
    assert endpoints(running)["chat-h2-0"][0] == "DRAINING"
    assert endpoints(running)["chat-h1-0"][0] == "UNKNOWN"
    with pytest.raises(StateError, match="has not come to its end"):
        drain(running.fleet, "h1")
    running.nodes["h2"].born.clear()
    assert "start chat-h2-0" in [c.title for c in up(running.fleet).changed]
    assert up(running.fleet).changed == ()


def test_going_back(running: Sim) -> None:
    before = running.plan
    running.plan = NEW
    running.nodes["h2"].born["chat-h2-0"] = "failed"
    with pytest.raises(NodesError):
        up(running.fleet)
    running.nodes["h2"].born.clear()
    back = fleet_of(running.fleet, find_applied(running.folder, before.hash[:6]))
    running.nodes["h1"].born["chat-h1-0"] = "failed"
    with pytest.raises(NodesError) as caught:
        up(back, UpOptions(again="llmfleet up --plan old"))
    assert "Go on with `llmfleet up --plan old`, or back with" in caught.value.hint
    running.nodes["h1"].born.clear()
    assert back.inventory == running.inventory
    titles = [c.title for c in up(back).changed]
    assert "start chat-h1-0" in titles
    assert running.living()["h2"] == {"chat-h2-0"}
    assert not [t for t in titles if "h5" in t or PIPELINE in t], "they were never changed"
    assert up(back).changed == ()
    assert running.state()["plan_hash"] == before.hash


def test_new_before_old_where_nothing_is_in_the_way(running: Sim) -> None:
    homes = {**{k: v for k, v in HOME.items() if k != "chat-h2-0"}, "chat-h5-1": ("h5",)}
    running.plan = make_plan(homes)
    moved = running.plan.instances[-1]
    changed = {"gpus": {"h5": (1,)}, "port": 8105}
    running.plan = make_plan_with(running.plan, moved.id, **changed)
    running.nodes["h2"].dies_at = lambda argv: (
        "stop" in argv and "UNKNOWN" not in [endpoints(running)["chat-h5-1"][0]]
    )
    titles = [c.title for c in up(running.fleet).changed]
    assert titles.index("start chat-h5-1") < titles.index("take chat-h2-0 out of rotation")
    assert titles.index("take chat-h2-0 out of rotation") < titles.index("stop chat-h2-0, which is no longer needed")
    assert "chat-h2-0" not in endpoints(running)
    assert running.living().get("h2") is None


def make_plan_with(plan: Plan, name: str, **changes: object) -> Plan:
    instances = tuple(replace(i, **changes) if i.id == name else i for i in plan.instances)  # type: ignore[arg-type]
    return sealed(replace(plan, instances=instances, hash=""))


def test_a_run_that_was_cut_goes_on_where_it_was(running: Sim) -> None:
    running.plan = NEW
    running.nodes["h2"].dies_at = lambda argv: "start" in argv
    with pytest.raises(NodesError):
        up(running.fleet)
    assert endpoints(running)["chat-h2-0"][0] == "DRAINING"
    running.nodes["h2"].dies_at, running.nodes["h2"].error = lambda _: False, None
    h1 = list(running.nodes["h1"].actions)
    titles = [c.title for c in up(running.fleet).changed]
    assert running.nodes["h1"].actions == h1, "what was replaced is not replaced again"
    assert "start chat-h2-0" in titles
    assert "stop chat-h2-0, to be replaced" not in titles
    assert up(running.fleet).changed == ()


def test_an_engine_of_a_plan_that_nobody_has_is_drained_by_its_own_count(running: Sim) -> None:
    """Its plan is lost here and on the head: the router forgets it first, and its own figures say when it is idle."""
    shutil.rmtree(running.folder / "plans")
    head = running.nodes["head"]
    for path in [p for p in head.files if "/plans/" in p]:
        del head.files[path]
    running.plan = make_plan({k: v for k, v in HOME.items() if k != "chat-h2-0"})
    running.nodes["h2"].running["chat-h2-0"] = 1
    with pytest.raises(HealthError, match="chat-h2-0 1"):
        up(running.fleet, UpOptions(drain_timeout_s=0))
    assert "chat-h2-0" not in endpoints(running)
    running.nodes["h2"].running.clear()
    up(running.fleet)
    assert "h2" not in running.living()


def test_another_machine_takes_the_plan_from_the_head(running: Sim) -> None:
    shutil.rmtree(running.folder)
    running.plan = NEW
    running.active["chat-h1-0"] = 1
    with pytest.raises(HealthError, match="chat-h1-0 1"):
        up(running.fleet, UpOptions(drain_timeout_s=0))
    assert endpoints(running)["chat-h1-0"][0] == "DRAINING"


def test_a_pipeline_whose_other_node_is_away_is_not_waited_for(running: Sim) -> None:
    running.active[PIPELINE] = 1
    running.nodes["h4"].die()
    with pytest.raises(NodesError, match="the other nodes are up"):
        up(running.fleet, UpOptions(skip_unreachable=True, drain_timeout_s=0))
    assert PIPELINE not in running.living().get("h3", set())


def test_what_the_state_does_not_know_stops_everything(running: Sim) -> None:
    running.nodes["h2"].processes["old"] = {"name": "old", "kind": "engine", "state": "healthy", "digest": "x"}
    running.nodes["h1"].processes["chat-h1-0"]["digest"] = "123456789abc"
    with pytest.raises(NodesError) as caught:
        up(running.fleet)
    said = str(caught.value)
    assert "h2: old runs there, and the state does not know of it" in said
    assert "h1: chat-h1-0 is not the one that the state knows: it was started anew, as 123456789abc" in said
    assert "llmfleet state rebuild" in caught.value.hint
    assert running.nodes["h1"].actions == running.nodes["h2"].actions == []


def test_what_an_interrupted_start_left_is_no_disagreement(running: Sim) -> None:
    running.nodes["h1"].processes["chat-h1-0"]["digest"] = "123456789abc"
    state = running.state()
    state["processes"]["h1/chat-h1-0"]["state"] = "starting"
    (running.folder / "state.json").write_text(json.dumps({**state, "serial": 1000}))
    assert "start chat-h1-0" in [c.title for c in up(running.fleet).changed]


def test_plans_are_found_by_the_beginning_of_their_hash(running: Sim) -> None:
    assert find_applied(running.folder, running.plan.hash).plan == running.plan
    for wrong in ("", "zz", "no/such/file"):
        with pytest.raises(InputError, match="names no plan") as caught:
            find_applied(running.folder, wrong)
        assert running.plan.hash[:6] in caught.value.hint
    path = running.folder / "plans" / f"{running.plan.hash}.json"
    path.write_text(path.read_text().replace('"port": 8100', '"port": 8101'))
    with pytest.raises(InputError, match="edited by hand"):
        find_applied(running.folder, str(path))
    path.write_text("[]")
    with pytest.raises(InputError, match="is no plan that was put in place"):
        find_applied(running.folder, str(path))


def test_the_old_plan_is_kept_and_many_are_pruned(running: Sim) -> None:
    for size in range(30):
        running.plan = make_plan(max_model_len=4096 + size, port=8100)
        if size % 10 == 0:
            up(running.fleet)
        (running.folder / "plans" / f"{size}.json").write_text("{}")
    assert len(list((running.folder / "plans").iterdir())) < 32
    assert find_applied(running.folder, running.state()["previous_plan"]).plan.instances[0].max_model_len == 4106


def test_clusters_that_are_no_more_go_last() -> None:
    both = with_old_clusters("resources: [{name: a}, {name: b}]", "resources: [{name: b}, {name: c}]")
    assert [c["name"] for c in yaml.safe_load(both or "")["resources"]] == ["b", "c", "a"]
    assert with_old_clusters("resources: [{name: a}]", "resources: [{name: a}, {name: b}]") is None
    assert with_old_clusters("{", "resources: []") is None


def test_the_audit_says_who_did_what(running: Sim) -> None:
    running.plan = NEW
    running.nodes["h2"].born["chat-h2-0"] = "failed"
    with pytest.raises(NodesError):
        up(running.fleet)
    by_step = {e["step"]: e for e in running.nodes["h1"].audit}
    assert by_step["start chat-h1-0"]["result"] == "done"
    assert by_step["start chat-h1-0"]["command"] == "up"
    assert "@" in by_step["start chat-h1-0"]["who"]
    assert by_step["start chat-h1-0"]["plan"] == NEW.hash
