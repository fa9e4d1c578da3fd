"""The emitted files: their text, what must hold of any plan, and what Envoy says of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleets import hosts_of, instance, rag_plan, with_caps, with_weights, with_window
from hypothesis import given, settings
from hypothesis import strategies as st
from running import envoy_binary

from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.options import Options
from llmfleet.launch.router.process import router_process
from llmfleet.launch.router.validate import merged_static, validate_command
from llmfleet.launch.router.xds import from_yaml
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Node, Runtime
from llmfleet.planner.plan import Plan, Pool, RouterPlan, ServicePlan

pytestmark = pytest.mark.live

GOLDEN = Path(__file__).parents[2] / "data" / "router"
FOLDER = "/home/ops/.llmfleet/router"
SCRIPT = "/home/ops/.llmfleet/bin/hot_restart.py"
HOSTS = {"head": "10.0.0.10", **{f"n{n}": f"10.0.1.{n}" for n in range(6)}}
NODE = Node(name="head", host="10.0.0.10", runtime=Runtime(python="/opt/llmfleet/bin/python"))


def files_of(plan: Plan, **more: Any) -> Mapping[str, str]:
    return router_files(plan, hosts=hosts_of(plan), folder=FOLDER, **more)


def validated(plan: Plan, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "merged.yaml"
    path.write_text(merged_static(files_of(plan)))
    command = validate_command(NODE, str(path), envoy=envoy_binary())
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_golden_files() -> None:
    """The files of a plan with every kind of pool, one instance draining, one whose engine never refuses.

    To renew them: delete them, run this twice, read the difference.
    """
    plan = replace(with_caps(rag_plan(), chat_c=12), router=RouterPlan("head", "0.0.0.0", 8080, 9901))
    files = router_files(plan, hosts=HOSTS, folder=FOLDER, draining=frozenset({"chat-b"}))
    emitted = {name: text for name, text in files.items() if name != "xds/ecds/classify.yaml"}  # that is all code
    golden = {str(p.relative_to(GOLDEN)): p.read_text() for p in GOLDEN.rglob("*.yaml")}
    if not golden:
        write(emitted)
    assert emitted == golden


def write(files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_text(text)


def test_order_of_renames() -> None:
    """Endpoints before the clusters that name them, clusters before routes, routes before the listener."""
    kinds = [name.split("/")[1] if "/" in name else name for name in files_of(rag_plan())]
    order = ["eds", "cds.yaml", "ecds", "low.yaml", "rds.yaml", "lds.yaml", "bootstrap.yaml"]
    assert list(dict.fromkeys(kinds)) == order


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        (lambda plan: files_of(with_weights(plan, chat_a=7)), {"xds/eds/chat.main.yaml"}),
        (lambda plan: files_of(plan, draining=frozenset({"chat-a"})), {"xds/eds/chat.main.yaml"}),
        (lambda plan: files_of(with_window(plan, 99)), {"xds/ecds/classify.yaml"}),
        (lambda plan: files_of(plan, options=Options(balance_percent=125)), {"xds/cds.yaml"}),
        (lambda plan: files_of(with_caps(plan, chat_a=7)), {"xds/eds/chat.main.yaml", "xds/cds.yaml"}),
    ],
)
def test_what_changes_live_never_touches_the_listener(change: Any, touched: set[str]) -> None:
    plan = rag_plan()
    before, after = files_of(plan), change(plan)
    assert {name for name in after if before.get(name) != after[name]} == touched


@pytest.mark.parametrize("plan", [rag_plan(), with_caps(rag_plan(), chat_a=7, rank_a=1)], ids=["plain", "capped"])
def test_envoy_takes_the_files(tmp_path: Path, plan: Plan) -> None:
    done = validated(plan, tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_instance_in_two_pools_has_one_cap() -> None:
    plan = with_caps(rag_plan(), chat_long=5)
    chat = plan.services[0]
    both = replace(chat, pools=(*chat.pools, Pool("shared", ("chat-long",), 0.1, "main")))
    files = files_of(replace(plan, services=(both, *plan.services[1:])))
    clusters = {c["name"]: c for c in from_yaml(files["xds/cds.yaml"])["resources"]}
    assert [name for name in clusters if name.startswith("at.")] == ["at.chat-long"]
    assert clusters["at.chat-long"]["circuit_breakers"]["thresholds"][0]["max_requests"] == 5
    for pool in ("main", "long"):
        assert "server_listener_name: caps" in files[f"xds/eds/chat.{pool}.yaml"]


def test_envoy_names_what_is_wrong(tmp_path: Path) -> None:
    """The check is one that can fail: a wrong field, a route to nowhere and broken Lua are each refused."""
    text = merged_static(files_of(rag_plan()))
    for old, new, says in (
        ("connect_timeout", "conect_timeout", "conect_timeout"),
        ("cluster: embed.main", "cluster: nowhere", "nowhere"),
        ("local function classify", "locl function classify", "script load error"),
    ):
        path = tmp_path / "merged.yaml"
        assert old in text
        path.write_text(text.replace(old, new))
        done = subprocess.run(
            validate_command(NODE, str(path), envoy=envoy_binary()),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert says in done.stderr


def cluster_names_used(value: Any) -> Iterator[str]:
    """Every cluster that routes and aggregates refer to."""
    if isinstance(value, dict):
        yield from (value[key] for key in ("cluster", "cluster_name") if isinstance(value.get(key), str))
        yield from (name for name in value.get("clusters", ()) if isinstance(name, str))
        for item in value.values():
            yield from cluster_names_used(item)
    elif isinstance(value, list):
        for item in value:
            yield from cluster_names_used(item)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any mix of pools, roles, fallbacks and empty services."""
    services, instances = [], []
    names = draw(st.lists(st.sampled_from(["chat", "chat.v2", "lite", "embed", "x"]), min_size=1, unique=True))
    for name in names:
        pools = []
        for number in range(draw(st.integers(0, 3))):
            ids = [f"{name}-{number}-{n}" for n in range(draw(st.integers(1, 3)))]
            role = draw(st.sampled_from(["main", "long", "fallback"]))
            pools.append(
                Pool(f"p{number}", tuple(ids), draw(st.floats(0, 1)), role, draw(st.sampled_from([None, 16_000])))
            )
            instances += [
                instance(i, name, f"org/{name}", "generate", "n0", 8100, weight=draw(st.integers(1, 1000))) for i in ids
            ]
        fallback = draw(st.sampled_from([None, *names]))
        services.append(ServicePlan(name, f"org/{name}", "generate", 1, 1, True, tuple(pools), fallback))
    return Plan("c", "n0", tuple(instances), tuple(services), RouterPlan("n0", "127.0.0.1", 8080, 9901))


@settings(max_examples=40, deadline=None)
@given(plans())
def test_any_plan(plan: Plan) -> None:
    """Equal text for equal plans; no route leads to a cluster that is not there; every instance is in one cluster."""
    files = router_files(plan, hosts={"n0": "10.0.0.1"}, folder=FOLDER)
    assert files == router_files(plan, hosts={"n0": "10.0.0.1"}, folder=FOLDER)
    clusters = {c["name"] for c in from_yaml(files["xds/cds.yaml"])["resources"]}
    used = set(cluster_names_used([from_yaml(files["xds/rds.yaml"]), from_yaml(files["xds/cds.yaml"])]))
    assert used <= clusters
    placed = [
        endpoint["endpoint"]["hostname"]
        for name, text in files.items()
        if name.startswith("xds/eds/")
        for group in from_yaml(text)["resources"][0]["endpoints"]
        for endpoint in group["lb_endpoints"]
    ]
    assert sorted(placed) == sorted(i.id for i in plan.instances)


def large_plan() -> Plan:
    """1 000 instances of 50 models on 250 nodes."""
    services, instances = [], []
    for s in range(50):
        ids = [f"s{s}-{n}" for n in range(20)]
        instances += [
            instance(i, f"s{s}", f"org/m{s}", "generate", f"n{(s * 20 + n) % 250}", 8100) for n, i in enumerate(ids)
        ]
        services.append(
            ServicePlan(f"s{s}", f"org/m{s}", "generate", 1, 1, True, (Pool("main", tuple(ids), 1, "main"),))
        )
    return Plan("large", "n0", tuple(instances), tuple(services), RouterPlan("n0", "127.0.0.1", 8080, 9901))


def test_a_large_fleet(tmp_path: Path) -> None:
    plan = large_plan()
    hosts = {f"n{n}": f"10.1.{n // 250}.{n % 250 + 1}" for n in range(250)}
    files = router_files(plan, hosts=hosts, folder=FOLDER)
    path = tmp_path / "merged.yaml"
    path.write_text(merged_static(files))
    command = validate_command(NODE, str(path), envoy=envoy_binary())
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len([name for name in files if name.startswith("xds/eds/")]) == 50


@pytest.mark.parametrize("hosts", [{}, {**HOSTS, "n3": "gpu-3.example"}, {**HOSTS, "n3": ""}])
def test_nodes_need_addresses(hosts: Mapping[str, str]) -> None:
    with pytest.raises(InputError, match="the router cannot reach node n"):
        router_files(rag_plan(), hosts=hosts, folder=FOLDER)


def test_ipv6() -> None:
    plan = rag_plan()
    files = router_files(plan, hosts=dict.fromkeys(HOSTS, "fd00::1"), folder=FOLDER)
    assert "address: fd00::1" in files["xds/eds/chat.main.yaml"]


def test_the_listener_takes_its_nodes_address_for_a_name() -> None:
    plan = replace(rag_plan(), router=RouterPlan("head", "head.example", 8080, 9901))
    listener = from_yaml(router_files(plan, hosts=HOSTS, folder=FOLDER)["xds/lds.yaml"])["resources"][0]
    assert listener["address"] == {"socket_address": {"address": "10.0.0.10", "port_value": 8080}}


def test_admin_stays_on_loopback() -> None:
    plan = replace(rag_plan(), router=RouterPlan("head", "0.0.0.0", 8080, 9901))
    boot = from_yaml(router_files(plan, hosts=HOSTS, folder=FOLDER)["bootstrap.yaml"])
    assert boot["admin"]["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}


def test_percent_signs_in_names_reach_clients() -> None:
    """Envoy would read them as commands, and refuse the file."""
    plan = rag_plan()
    services = (replace(plan.services[0], model="/models/50%off"), *plan.services[1:])
    routes = json.dumps(from_yaml(files_of(replace(plan, services=services))["xds/rds.yaml"]))
    assert '"id": "/models/50%%off"' in routes


def test_process() -> None:
    process = router_process(rag_plan(), NODE, FOLDER, SCRIPT)
    assert process.argv == (
        "/opt/llmfleet/bin/python",
        SCRIPT,
        "/opt/llmfleet/bin/envoy",
        "--config-path",
        f"{FOLDER}/bootstrap.yaml",
        "--concurrency",
        "2",
        "--drain-time-s",
        "900",
        "--drain-strategy",
        "immediate",
        "--parent-shutdown-time-s",
        "900",
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "1000",
        "--reject-unknown-dynamic-fields",
    )
    assert (process.name, process.node, process.kind) == ("router", "head", "router")
    assert process.health_url == "http://127.0.0.1:9901/ready"
    assert router_process(with_weights(rag_plan(), chat_a=3), NODE, FOLDER, SCRIPT).digest == process.digest


def test_envoy_from_path() -> None:
    assert router_process(rag_plan(), Node(name="n", host="n"), FOLDER, SCRIPT).argv[:3] == ("python3", SCRIPT, "envoy")
