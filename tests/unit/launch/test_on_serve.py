"""`up --runtime ray-serve` and what follows it, on simulated nodes: Serve itself is a page that the tests write."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from sim_fleet import Sim, errors_of, make_inventory, make_plan
from test_watch import look, planner, watching

from llmfleet.cli.bench_asked import from_plan
from llmfleet.cli.bench_options import Options
from llmfleet.launch.doctor.examine import examine
from llmfleet.launch.doctor.result import CheckResult
from llmfleet.launch.down import down
from llmfleet.launch.drain import drain, undrain
from llmfleet.launch.ray_serve import application
from llmfleet.launch.rebuild import rebuild
from llmfleet.launch.record.state import Runtime
from llmfleet.launch.results import InstanceStatus
from llmfleet.launch.status import status
from llmfleet.launch.up import UpOptions, up
from llmfleet.launch.watch import Seen
from llmfleet.planner.errors import HealthError, InputError, NodesError, StateError

ON_SERVE = UpOptions(runtime="ray-serve")
KINDS = {"chat-h": ("h1", "h2"), "embed-h": ("h5",)}  # what serves, and on which nodes
HOMES = {"chat-h1-0": ("h1",), "chat-h2-0": ("h2",), "embed-h5-0": ("h5",)}


@pytest.fixture
def serve(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> Sim:
    monkeypatch.setattr(application, "POLL_S", 0)
    sim.plan = make_plan(HOMES)
    head = sim.nodes["head"]
    head.facts = {"ray": ("head", "h1", "h2", "h5")}
    head.pages["/status"] = lambda: page()
    head.pages["/clusters"] = lambda: routed(*KINDS)
    return sim


@pytest.fixture
def served(serve: Sim) -> Sim:
    up(serve.fleet, ON_SERVE)
    return serve


def routed(*kinds: str) -> str:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 18200}}
    hosts = [{"hostname": kind, "address": address, "stats": [], "health_status": {}} for kind in kinds]
    return json.dumps({"cluster_statuses": [{"name": "chat.main", "host_statuses": hosts}]})


def page(gone: tuple[str, ...] = (), target: int | None = None, status: str = "RUNNING", state: str = "RUNNING") -> str:
    """As the keeper answers, without what ran on the nodes that are `gone`."""
    kinds = {
        kind: {
            "status": "HEALTHY",
            "message": "",
            "target": len(nodes) if target is None else target,
            "replicas": [{"state": state, "ip": f"10.0.0.{n[1]}"} for n in nodes if n not in gone],
        }
        for kind, nodes in KINDS.items()
    }
    proxies = {f"10.0.0.{n[1]}": "HEALTHY" for nodes in KINDS.values() for n in nodes if n not in gone}
    nodes = ["10.0.0.0", *proxies]
    told = {"status": status, "message": "", "kinds": kinds, "proxies": proxies, "nodes": nodes, "well": True}
    return json.dumps(told)


def spec(sim: Sim, node: str, process: str) -> dict[str, object]:
    at = sim.nodes[node]
    found: dict[str, object] = json.loads(at.files[f"{at.folder.process(process)}/spec.json"])
    return found


def deployed(sim: Sim) -> dict[str, int]:
    """Replicas at most, as the application's configuration on the head has them."""
    head = sim.nodes["head"]
    text = head.files[f"{head.folder.process('application')}/serve.yaml"]
    (one,) = yaml.safe_load(text)["applications"]
    scaling = {d["name"]: d["autoscaling_config"] for d in one["deployments"]}
    return {name: s["max_replicas"] if s["min_replicas"] else 0 for name, s in scaling.items()}


def by_id(found: tuple[InstanceStatus, ...]) -> dict[str, tuple[str, str]]:
    return {i.id: (i.state, i.reason) for i in found}


def test_ray_runs_everywhere_and_the_engines_in_it(served: Sim) -> None:
    worker = {"ray-worker"}
    assert served.living() == {
        "head": {"ray-head", "application", "router"}, "h1": worker, "h2": worker, "h5": worker,
    }  # fmt: skip
    words = shlex.join(spec(served, "h1", "ray-worker")["argv"])  # type: ignore[call-overload]
    assert "--num-cpus 1 --num-gpus 0" in words and '"llmfleet_class_h": 1' in words
    env = spec(served, "head", "ray-head")["env"]
    assert isinstance(env, dict) and env["RAY_gcs_storage"] == "rocksdb"
    assert env["RAY_gcs_storage_path"].startswith(served.nodes["head"].folder.root)
    assert deployed(served) == {"chat-h": 2, "embed-h": 1}
    assert served.state()["runtime"] == "ray-serve" and served.state()["complete"]


def test_the_router_leads_to_nodes_that_carry_engines_and_not_to_the_head(served: Sim) -> None:
    head = served.nodes["head"]
    clusters = yaml.safe_load(head.files[f"{head.folder.router}/xds/cds.yaml"])["resources"]
    (serve,) = [c for c in clusters if c["name"] == "ray-serve"]
    members = serve["load_assignment"]["endpoints"][0]["lb_endpoints"]
    addresses = [m["endpoint"]["address"]["socket_address"]["address"] for m in members]
    assert addresses == ["10.0.0.1", "10.0.0.2", "10.0.0.5"]


def test_a_second_up_does_nothing_and_need_not_be_told_the_runtime(served: Sim) -> None:
    assert up(served.fleet).changed == ()
    assert up(served.fleet, UpOptions(dry_run=True)).changed == ()


def checked(sim: Sim, runtime: Runtime | None) -> dict[str, dict[str, CheckResult]]:
    report = examine(sim.fleet, sim.inventory.nodes, runtime)
    return {n.name: {r.name: r for r in n.results} for n in report.nodes}


def test_doctor_asked_for_it_checks_what_up_would_and_changes_nothing(serve: Sim) -> None:
    taken = {"port": 8000, "pid": 7, "name": "nginx", "marker": None}
    serve.nodes["h1"].facts = {"ports": [taken], "import_error": "ImportError: no fastapi"}
    assert {checked(serve, None)["h1"].get("ray serve"), checked(serve, "engines")["h1"].get("ray serve")} == {None}
    assert checked(serve, None)["h1"]["ports"].status == "ok"
    found = checked(serve, "ray-serve")
    assert {name for name, results in found.items() if "ray serve" in results} == {"head", "h1", "h2", "h5"}
    bad = {(n, r.name): r.detail for n, results in found.items() for r in results.values() if r.status == "fail"}
    assert bad.keys() == {("h1", "ports"), ("h1", "ray serve")}
    assert "8000 is taken by nginx" in bad["h1", "ports"] and "no fastapi" in bad["h1", "ray serve"]
    assert not serve.living() and not (serve.folder / "state.json").exists()
    with pytest.raises(NodesError) as caught:
        up(serve.fleet, ON_SERVE)
    assert {e.message for e in caught.value.errors} == set(bad.values())


def test_doctor_names_what_stands_in_the_way_as_up_does(served: Sim) -> None:
    assert "ray serve" in checked(served, None)["h1"], "as it is up"
    with pytest.raises(StateError, match="is up with --runtime ray-serve, and cannot become engines"):
        checked(served, "engines")


def test_one_runtime_does_not_follow_on_the_other(served: Sim) -> None:
    with pytest.raises(StateError, match="is up with --runtime ray-serve, and cannot become engines") as caught:
        up(served.fleet, UpOptions(runtime="engines"))
    assert "llmfleet down" in caught.value.hint
    assert served.living()["head"] == {"ray-head", "application", "router"}


def test_after_down_engines_run_by_themselves_again(served: Sim) -> None:
    down(served.fleet)
    assert served.living() == {}
    head = served.nodes["head"]
    assert not [f for f in head.files if not f.startswith(head.folder.logs)]
    served.nodes["head"].pages["/clusters"] = served._clusters
    up(served.fleet)
    assert served.living()["h1"] == {"chat-h1-0"} and served.state()["runtime"] == "engines"


def test_ray_under_replicas_is_not_started_anew(served: Sim) -> None:
    changed = make_inventory(h1={"runtime": {"env": {"A": "1"}}}, head={"runtime": {"env": {"A": "1"}}})
    served.inventory = changed
    with pytest.raises(NodesError) as caught:
        up(served.fleet)
    assert set(errors_of(caught.value)) == {"h1", "head"}
    hints = {e.node: e.hint for e in caught.value.errors}
    assert "llmfleet drain h1" in hints["h1"] and "llmfleet down" in hints["head"]


def leaving(sim: Sim, *pages: str) -> list[int]:
    """Serve's answers, one after the other, the last for ever; returns where it counts them."""
    asked: list[int] = []

    def next_page() -> str:
        asked.append(1)
        return pages[min(len(asked), len(pages)) - 1]

    sim.nodes["head"].pages["/status"] = next_page
    sim.nodes["head"].reply("serve_leave.py")
    return asked


def test_a_drain_waits_until_serve_has_left(served: Sim) -> None:
    asked = leaving(served, page(status="NOT_STARTED"), page(), page(("h2",)))
    report = drain(served.fleet, "h2")
    assert len(asked) == 3 and report.instances == ("chat-h2-0",)
    assert deployed(served) == {"chat-h": 1, "embed-h": 1}
    assert served.nodes["h2"].actions[-1] == ("stop", "ray-worker")
    told = [c for c in served.nodes["head"].commands if c[0] == "env"]
    assert told and told[0][-2:] == (served.nodes["head"].folder.script("serve_leave.py"), "10.0.0.2")
    assert up(served.fleet).changed == ()


def test_a_kind_without_nodes_gets_no_requests(served: Sim) -> None:
    leaving(served, page(("h5",)))
    drain(served.fleet, "h5")
    assert deployed(served) == {"chat-h": 2, "embed-h": 0}
    hosts = yaml.safe_load(served.eds("embed.main"))["resources"][0]["endpoints"][0]["lb_endpoints"]
    assert [h["health_status"] for h in hosts] == ["DRAINING"]


def test_a_drain_that_takes_too_long_may_be_gone_on_with(served: Sim) -> None:
    leaving(served, page())
    with pytest.raises(HealthError, match="has not left h2"):
        drain(served.fleet, "h2", timeout_s=0)
    assert "ray-worker" in served.living()["h2"] and served.state()["draining"] == ["h2"]
    drain(served.fleet, "h2", timeout_s=0, force=True)
    assert "h2" not in served.living() and served.state()["drained"] == ["h2"]


def test_undrain_brings_it_back(served: Sim) -> None:
    leaving(served, page(("h2",)))
    drain(served.fleet, "h2")
    undrain(served.fleet, "h2")
    assert served.living()["h2"] == {"ray-worker"} and deployed(served) == {"chat-h": 2, "embed-h": 1}


def test_the_head_is_not_drained(serve: Sim) -> None:
    serve.plan = make_plan({**HOMES, "chat-head-0": ("head",)})
    serve.inventory = make_inventory(head={"gpus": "1 x CPU-4G"})
    serve.nodes["head"].pages["/clusters"] = lambda: routed("chat-head", "embed-head")
    up(serve.fleet, ON_SERVE)
    with pytest.raises(StateError, match="carries Ray's head"):
        drain(serve.fleet, "head")


def test_the_last_nodes_are_not_drained(served: Sim) -> None:
    leaving(served, page(("h1", "h2", "h5")))
    drain(served.fleet, "h1")
    drain(served.fleet, "h2")
    with pytest.raises(StateError, match="nothing is left to serve without h5"):
        drain(served.fleet, "h5")


CASES: dict[str, tuple[Callable[[Sim], None], dict[str, tuple[str, str]], bool]] = {
    "as planned": (lambda _: None, dict.fromkeys(HOMES, ("healthy", "")), True),
    "scaled down": (
        lambda sim: sim.nodes["head"].pages.update({"/status": lambda: page(("h1",), target=1)}),
        {"chat-h1-0": ("stopped", "Ray Serve needs 1 of chat-h now"), "chat-h2-0": ("healthy", ""),
         "embed-h5-0": ("healthy", "")},
        True,
    ),
    "a replica short": (
        lambda sim: sim.nodes["head"].pages.update({"/status": lambda: page(("h1",))}),
        {"chat-h1-0": ("starting", "Ray Serve has not placed it yet"), "chat-h2-0": ("healthy", ""),
         "embed-h5-0": ("healthy", "")},
        False,
    ),
    "nobody answers": (
        lambda sim: sim.nodes["head"].pages.pop("/status") and None,
        dict.fromkeys(HOMES, ("unhealthy", "what keeps the application on head does not answer")),
        False,
    ),
    "nonsense": (
        lambda sim: sim.nodes["head"].pages.update({"/status": lambda: '{"kinds": []}'}),
        dict.fromkeys(HOMES, ("unhealthy", "what keeps the application on head does not answer")),
        False,
    ),
    "a node away": (
        lambda sim: sim.nodes["h1"].die(),
        {"chat-h1-0": ("unhealthy", "h1 unreachable"), "chat-h2-0": ("healthy", ""), "embed-h5-0": ("healthy", "")},
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_status_is_what_serve_says(served: Sim, case: str) -> None:
    happen, expected, well = CASES[case]
    happen(served)
    seen = status(served.fleet)
    assert by_id(seen.instances) == expected
    assert seen.ok == well, seen.problems
    assert {n.state for n in seen.nodes} <= {"ready", "unreachable", "degraded"}


MOVED = {"chat-h1-0": ("h1",), "chat-h3-0": ("h3",), "embed-h5-0": ("h5",)}


def lose(sim: Sim, node: str, *, to_ray: bool) -> None:
    """A node that this machine does not reach; `to_ray`: neither does Ray."""
    sim.nodes[node].die()
    sim.nodes["head"].pages["/status"] = lambda: page((node,) if to_ray else ())


def test_watch_leaves_a_node_alone_that_ray_reaches(served: Sim) -> None:
    watch, said, put, clock = watching(served, planner(MOVED), apply=True)
    lose(served, "h2", to_ray=False)
    look(watch, clock, 0, 61, 1000)
    assert [s for s in said if s.startswith("h2 ")] == [f"h2 {Seen('h2', 'serving')}"] and not put


def test_watch_leaves_dead_replicas_to_serve(served: Sim) -> None:
    watch, said, put, clock = watching(served, planner(MOVED), apply=True)
    served.nodes["head"].pages["/status"] = lambda: page(state="STARTING")
    look(watch, clock, 0, 61, 1000)
    assert "chat-h2-0 is starting: in Ray Serve: STARTING" in said
    assert not any("dead" in s for s in said) and not put


def test_watch_plans_anew_what_ran_on_a_node_that_ray_gave_up(served: Sim) -> None:
    watch, said, put, clock = watching(served, planner(MOVED, chat=6), apply=True)
    served.nodes["head"].facts = {"ray": ("head", "h1", "h3", "h5")}
    lose(served, "h2", to_ray=True)
    look(watch, clock, 0, 30)
    assert [s for s in said if s.startswith("h2 ")] == ["h2 does not answer"]
    look(watch, clock, 61, 70, 500)
    assert sum("is taken for dead" in s for s in said) == 1 and len(put) == 1, said
    assert served.living()["h3"] == {"ray-worker"} and deployed(served) == {"chat-h": 2, "embed-h": 1}
    assert served.state()["runtime"] == "ray-serve"
    assert not [a for n in ("h1", "h5") for a in served.nodes[n].actions if a[0] == "stop"], "what serves is left alone"


def test_a_lost_state_is_read_anew_with_its_runtime(served: Sim) -> None:
    (served.folder / "state.json").unlink()
    head = served.nodes["head"]
    del head.files[head.folder.state]
    rebuild(served.fleet)
    assert served.state()["runtime"] == "ray-serve"


def test_nodes_with_containers_are_refused_before_anything_is_touched(serve: Sim) -> None:
    serve.inventory = make_inventory(h1={"runtime": {"kind": "docker", "image": "vllm/vllm-openai:v0.32.0"}})
    with pytest.raises((InputError, NodesError), match="h1"):
        up(serve.fleet, ON_SERVE)
    assert serve.living() == {}


def test_shared_gpus_are_refused(serve: Sim) -> None:
    shared = tuple(replace(i, gpu_share=0.5) for i in serve.plan.instances)
    serve.plan = replace(serve.plan, instances=shared)
    with pytest.raises(InputError, match="share GPUs"):
        up(serve.fleet, ON_SERVE)
    assert serve.living() == {}


def test_bench_says_that_instances_have_no_address(served: Sim, tmp_path: Path) -> None:
    typed = Options(None, None, None, 10, 1, 0, None, None, None, None, 20, None, None, None, 0, None)
    with pytest.raises(InputError, match="no address for each") as caught:
        from_plan(served.inventory, served.plan, [], False, typed, tmp_path / "inventory.yaml")
    assert "bench --router" in caught.value.hint
