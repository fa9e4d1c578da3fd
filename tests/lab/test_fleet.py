"""The whole path on real hosts, in this order: plan, up (killed, gone on with), requests, drain, a power cut, down."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import chat, embed, inventory_yaml, rerank
from tests.lab.lab import Lab
from tests.lab.load import Load

pytestmark = pytest.mark.lab

PIPELINE = "chat-h3-0"
HOME = {"chat-h1-0": ["h1"], "chat-h2-0": ["h2"], PIPELINE: ["h3", "h4"], "embed-h5-0": ["h5"], "rerank-h5-0": ["h5"]}
CHAT = ("chat-h1-0", "chat-h2-0", PIPELINE)


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    made = LabFleet(lab, tmp_path_factory.mktemp("fleet"))
    services = [chat(engine_env, ["h1"], ["h2"], ["h3", "h4"]), embed(engine_env, ["h5"]), rerank(engine_env, ["h5"])]
    made.write(inventory_yaml(lab, engine_env, services, gpus={"h5": "2 x CPU-2G"}))
    yield made
    made.run("down", "--yes")


def ask(fleet: LabFleet, path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{fleet.url}/v1/{path}", json=body, timeout=60, trust_env=False)


def test_the_plan_puts_every_instance_where_the_inventory_says(fleet: LabFleet) -> None:
    plan = fleet.ok("plan", "--json").json
    assert {i["id"]: i["nodes"] for i in plan["instances"]} == HOME
    pipeline = next(i for i in plan["instances"] if i["id"] == PIPELINE)
    assert (pipeline["tp"], pipeline["pp"]) == (1, 2)
    assert plan["head"] == plan["router"]["node"] == "head"


def test_up_is_locked_while_it_runs_and_gone_on_with_when_killed(fleet: LabFleet) -> None:
    planned = steps(fleet.ok("up", "--dry-run", "--json").out)
    assert not any(fleet.ours(host) for host in fleet.lab.hosts), "a dry run started something"
    first = fleet.start("up")
    wait_for_started_engines(fleet, first, 2)
    second = fleet.run("up")
    assert second.code == 4, str(second)
    assert f"process {first.pid}" in second.err
    first.kill()
    said = first.communicate()[1]
    done, begun = lines(said, ": done"), lines(said, " …")
    ran = fleet.ok("up", "--json", timeout=900)
    assert done and begun, "the first run was killed before it did anything"
    assert done | steps(ran.out) <= planned
    assert planned - done - steps(ran.out) <= begun, "only what the kill interrupted may be done and not told"
    assert {name: host for host in fleet.lab.hosts for name in fleet.engines(host)} == {
        n: h[0] for n, h in HOME.items()
    }


def test_all_are_healthy_and_each_runs_on_its_host_and_no_other(fleet: LabFleet) -> None:
    status = fleet.ok("status", "--json").json
    assert {i["id"]: i["state"] for i in status["instances"]} == dict.fromkeys(HOME, "healthy")
    assert {n["name"]: n["state"] for n in status["nodes"]} == dict.fromkeys(fleet.lab.hosts, "ready")
    for host in fleet.lab.hosts:
        assert fleet.engines(host) == sorted(name for name, nodes in HOME.items() if nodes[0] == host)
    for host in ("h3", "h4"):
        workers = [
            p
            for p in fleet.lab[host].processes()
            if any("RayWorkerWrapper" in w or "RayWorkerProc" in w for w in p.argv)
        ]
        assert len(workers) == 1, f"{host}: {[p.argv for p in fleet.ours(host)]}"


def test_ray_has_the_planned_nodes(fleet: LabFleet, engine_env: EngineEnv) -> None:
    address = f"{fleet.lab['head'].address}:6379"
    said = (
        fleet.lab["head"]
        .exec([str(engine_env.python), "-m", "ray.scripts.scripts", "status", "--address", address])
        .stdout
    )
    assert set(re.findall(r"llmfleet_node_(\S+)", said)) == {"head", "h3", "h4"}
    assert "2.0/2.0 GPU" in said
    assert fleet.ok("status", "--json").json["ray"]["nodes"] == ["h3", "h4", "head"]


def test_requests_of_every_kind_are_answered(fleet: LabFleet) -> None:
    said = ask(fleet, "chat/completions", model="chat", messages=[{"role": "user", "content": "Hello"}], max_tokens=8)
    assert said.status_code == 200, said.text
    assert said.json()["choices"][0]["finish_reason"]
    assert said.headers["x-llmfleet-instance"] in CHAT
    said = ask(fleet, "completions", model="chat", prompt="Apache", max_tokens=8)
    assert said.status_code == 200, said.text
    assert said.json()["usage"]["completion_tokens"] > 0
    body = {"model": "chat", "prompt": "Apache", "max_tokens": 8, "stream": True}
    with httpx.stream("POST", f"{fleet.url}/v1/completions", json=body, timeout=60, trust_env=False) as stream:
        events = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert len(events) > 2
    assert events[-1] == "data: [DONE]"


def test_every_chat_instance_answers(fleet: LabFleet) -> None:
    seen = {
        ask(fleet, "completions", model="chat", prompt=f"Clause {n}", max_tokens=2).headers["x-llmfleet-instance"]
        for n in range(60)
    }
    assert seen == set(CHAT)


def test_embedding_and_rerank_stay_on_their_host(fleet: LabFleet) -> None:
    said = ask(fleet, "embeddings", model="embed", input=["a cat sits", "a kitten rests", "stocks fell on Monday"])
    assert said.status_code == 200, said.text
    assert said.headers["x-llmfleet-instance"] == "embed-h5-0"
    cat, kitten, stocks = (e["embedding"] for e in said.json()["data"])
    assert cosine(cat, kitten) > 0.4 > cosine(cat, stocks)
    said = ask(fleet, "rerank", model="rerank", query="a cat", documents=["a kitten", "a stock market"])
    assert said.status_code == 200, said.text
    assert said.headers["x-llmfleet-instance"] == "rerank-h5-0"
    assert len(said.json()["results"]) == 2


@pytest.mark.parametrize(("path", "body"), [
    ("chat/completions", {"model": "embed", "messages": [{"role": "user", "content": "x"}]}),
    ("completions", {"model": "rerank", "prompt": "x"}),
    ("embeddings", {"model": "chat", "input": "x"}),
    ("completions", {"model": "nobody", "prompt": "x"}),
])  # fmt: skip
def test_a_task_is_refused_by_the_wrong_model(fleet: LabFleet, path: str, body: dict[str, object]) -> None:
    before = served(fleet)
    said = ask(fleet, path, **body)
    assert said.status_code in (400, 404), said.text
    assert said.json()["error"]["message"]
    assert served(fleet) == before, "the request reached an engine"


def test_a_second_up_changes_nothing(fleet: LabFleet) -> None:
    assert fleet.ok("up", "--dry-run", "--json").json["changed"] == []
    before = {h: [p.pid for p in fleet.ours(h)] for h in ("h1", "h2", "h5", "head")}
    assert fleet.ok("up", "--json").json["changed"] == []
    assert {h: [p.pid for p in fleet.ours(h)] for h in before} == before


def test_a_drain_loses_no_request_and_undrain_brings_it_back(fleet: LabFleet) -> None:
    with Load(fleet.url, "chat") as load:
        load.wait_for(8)
        report = fleet.ok("drain", "h2", "--json").json
        load.wait_for(8)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert report["instances"] == ["chat-h2-0"]
    assert fleet.engines("h2") == []
    status = fleet.ok("status", "--json").json
    assert next(n for n in status["nodes"] if n["name"] == "h2")["state"] == "drained"
    assert fleet.ok("up", "--dry-run", "--json").json["changed"] == [], "up would start what was drained"
    fleet.ok("undrain", "h2")
    assert fleet.engines("h2") == ["chat-h2-0"]
    assert fleet.states() == dict.fromkeys(HOME, "healthy")


def test_a_power_cut_loses_no_plain_request_and_status_says_so(fleet: LabFleet) -> None:
    with Load(fleet.url, "chat") as load:
        load.wait_for(8)
        cut = time.monotonic()
        fleet.lab["h1"].power_cut()
        load.wait_for(8)
        while time.monotonic() < cut + 6:
            time.sleep(0.1)
        ran = fleet.run("status", "--json")
        load.wait_for(8)
    load.stop()
    assert not [r for r in load.failed if not r.streaming], load.summary()
    assert not load.answered_by("chat-h1-0", after=cut + 3)
    assert all(r.started < cut + 3 for r in load.cut + load.failed), load.summary()
    assert ran.code == 1, str(ran)
    assert {n["name"]: n["state"] for n in ran.json["nodes"]}["h1"] == "unreachable"


def test_up_starts_again_what_a_power_cut_ended(fleet: LabFleet) -> None:
    assert fleet.engines("h1") == []
    assert steps(fleet.ok("up", "--json").out) == {("h1", "start chat-h1-0")}
    assert fleet.states() == dict.fromkeys(HOME, "healthy")


def test_logs_show_what_an_engine_said(fleet: LabFleet) -> None:
    assert "Application startup complete" in fleet.ok("logs", "chat-h1-0", "-n", "400").out
    wrong = fleet.run("logs", "chat-h1-9")
    assert wrong.code == 2
    assert "chat-h1-0" in wrong.err


def test_down_leaves_the_logs_and_other_peoples_processes(fleet: LabFleet) -> None:
    host = fleet.lab["h1"]
    bystander = subprocess.Popen([*host._enter(), "sleep", "600"])
    try:
        ports = {h: fleet.lab[h].listening_ports() for h in fleet.lab.hosts}
        assert all(len(p) > 1 for p in ports.values())
        fleet.ok("down", "--yes")
        for name in fleet.lab.hosts:
            assert fleet.ours(name) == [], name
            assert fleet.lab[name].listening_ports() == {22}, name
            left = fleet.lab[name].files("/root/.llmfleet")
            assert all("/logs/" in f and f.endswith(".log") for f in left), left
            assert not [p for p in fleet.lab[name].processes() if "ray" in " ".join(p.argv) and "sshd" not in p.argv[0]]
            assert fleet.lab[name].files("/tmp") == []
        assert bystander.poll() is None
        assert fleet.state["processes"] == {}
    finally:
        bystander.kill()
        bystander.wait()
    again = fleet.ok("down", "--yes", "--json").json
    assert again["stopped"] == []


def steps(out: str) -> set[tuple[str, str]]:
    return {(s["node"], s["title"]) for s in json.loads(out)["changed"]}


def lines(err: str, end: str) -> set[tuple[str, str]]:
    """Steps in a run's progress: "node: title: done", and "node: title …" when it begins."""
    found = (re.fullmatch(rf"(\S+): (.+?){end}", line) for line in err.splitlines())
    return {(m[1], m[2]) for m in found if m}


def wait_for_started_engines(fleet: LabFleet, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 300
    while sum(p["kind"] == "engine" and p["state"] == "started" for p in fleet.state["processes"].values()) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def served(fleet: LabFleet) -> dict[str, int]:
    return dict(fleet.ok("status", "--json").json["router"]["requests"])
