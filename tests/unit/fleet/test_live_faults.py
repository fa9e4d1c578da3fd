"""What a night may do to the controller: killed anywhere, two at once, its state cut short or lost. The nodes serve on,
`up` comes to the same end, nothing is started twice, nothing is left behind, and the message names the cause."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_fleet import LiveFleet
from tests.lab.load import Load

from llmfleet.launch.up import PHASES

pytestmark = pytest.mark.live
BOUNDARIES = range(2, len(PHASES) + 1)


def until(met: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    """Two nodes; up, for the tests that find it so and leave it so."""
    made = LiveFleet(tmp_path_factory.mktemp("pair"), ["n1", "n2"])
    try:
        made.write(["n1"])
        made.ok("up")
        yield made
    finally:
        made.close()
    assert made.ours() == {}


def as_planned(fleet: LiveFleet) -> None:
    """All that runs is what the plan has, once; the state says so, here and on the head; nothing is left to do."""
    homes = {f"{i['nodes'][0]}/{i['id']}" for i in fleet.plan["instances"]}
    assert set(fleet.engines()) == homes
    assert set(fleet.state["processes"]) == homes | {"front/router"}
    assert {r["state"] for r in fleet.state["processes"].values()} == {"started"}
    assert (fleet.node_folder("front") / "state.json").read_bytes() == fleet.state_file.read_bytes()
    assert fleet.state["complete"]
    assert fleet.ok("up", "--dry-run", "--json").steps == []


def test_killed_at_every_phase_boundary_of_a_change(pair: LiveFleet) -> None:
    """The instance moves to the other node, while clients ask. Each run gets one phase further than the one before."""
    here = pair.plan["instances"][0]["nodes"][0]
    other = "n2" if here == "n1" else "n1"
    before = pair.begun().get(f"{other}/story-{other}-0", 0)
    pair.write([other])
    with Load(pair.url, "story", clients=2) as load:
        for number in BOUNDARIES:
            load.wait_for(2)
            assert pair.killed_up("phase", number) == -signal.SIGKILL, f"before {PHASES[number - 1][0]}"
        pair.ok("up")
        load.wait_for(2)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    as_planned(pair)
    assert pair.begun()[f"{other}/story-{other}-0"] == before + 1, "it was started twice"


@pytest.mark.parametrize("number", [3, 7, len(PHASES)])
def test_killed_once_in_a_change(pair: LiveFleet, number: int) -> None:
    here = pair.plan["instances"][0]["nodes"][0]
    other = "n2" if here == "n1" else "n1"
    pair.write([other])
    assert pair.killed_up("phase", number) == -signal.SIGKILL
    pair.ok("up")
    as_planned(pair)


@pytest.mark.parametrize("number", [1, 5, 10, 14])
def test_killed_between_steps_of_a_first_up(tmp_path: Path, number: int) -> None:
    fleet = LiveFleet(tmp_path, ["n1", "n2"])
    try:
        assert fleet.killed_up("step", number) == -signal.SIGKILL
        fleet.ok("up")
        as_planned(fleet)
        assert fleet.ok("up", "--dry-run", "--quiet").err == ""
        assert set(fleet.begun().values()) <= {0, 1}, fleet.begun()
    finally:
        fleet.close()
    assert fleet.ours() == {}


def test_killed_in_the_middle_of_replacing_and_taken_down(fleet: LiveFleet) -> None:
    """Out of rotation, stopped, and the controller is gone: the others serve, `up` goes on, `down` finds all."""
    fleet.ok("up")
    fleet.write(context=2048)
    with Load(fleet.url, "story", clients=2) as load:
        load.wait_for(2)
        assert fleet.killed_up("step", 4) == -signal.SIGKILL  # the first engine was stopped
        assert "n1/story-n1-0" not in fleet.engines()
        load.wait_for(2)
        ran = fleet.run("drain", "n2", "--yes")
        assert ran.code == 1
        assert "has not come to its end" in ran.err
        assert fleet.killed_up("step", 3) == -signal.SIGKILL  # the first came back
        fleet.ok("up")
        load.wait_for(2)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    as_planned(fleet)


def test_two_at_once(pair: LiveFleet) -> None:
    """One works, the other names it. Or one was done before the other came to the lock."""
    runs = [pair.start("up"), pair.start("up")]
    said = [run.communicate(timeout=120)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) in ([0, 0], [0, 4]), said
    if 4 in codes:
        assert f"process {runs[codes.index(0)].pid}" in said[codes.index(4)]
    as_planned(pair)


@pytest.mark.parametrize("rest", [b"", b'{"cluster": "loop", "proc', b"\0" * 512, b"[1, 2]"])
def test_a_state_file_that_was_cut_short_is_replaced_by_the_heads_copy(pair: LiveFleet, rest: bytes) -> None:
    before = pair.state
    pair.state_file.write_bytes(rest)
    status = pair.run("status", "--json")
    assert status.code == 0, str(status)
    ran = pair.ok("up", "--json")
    assert ran.steps == []
    assert "took the copy that the head node keeps" in ran.err
    assert pair.state["processes"] == before["processes"]
    assert pair.state_file.with_name("state.json.broken").read_bytes() == rest
    as_planned(pair)


@pytest.mark.parametrize("text", [None, b"{"])
def test_a_state_lost_here_and_on_the_head_is_read_back_from_the_nodes(pair: LiveFleet, text: bytes | None) -> None:
    before = pair.state
    for path in (pair.state_file, pair.node_folder("front") / "state.json"):
        path.unlink() if text is None else path.write_bytes(text)
    refused = pair.run("up")
    assert refused.code == 1, str(refused)
    assert "llmfleet state rebuild" in refused.err
    assert "Traceback" not in refused.err
    dry = pair.ok("state", "rebuild", "--dry-run", "--json").json
    assert dry["changed"] and set(dry["found"]) == set(before["processes"])
    pair.ok("state", "rebuild", "--yes")
    assert engines(pair.state) == engines(before)
    assert set(pair.state["processes"]) == set(before["processes"])
    assert pair.ok("up", "--json").steps == []
    as_planned(pair)
    assert pair.ok("state", "rebuild", "--json").json["changed"] is False


def engines(state: dict[str, Any]) -> dict[str, Any]:
    """Records of engines, with the plan that started each."""
    return {key: r for key, r in state["processes"].items() if r["kind"] == "engine"}


def test_a_newer_state_is_refused_and_kept(pair: LiveFleet) -> None:
    text = pair.state_file.read_text()
    newer = text.replace('"schema": 2', '"schema": 3')
    pair.state_file.write_text(newer)
    try:
        for words in (("up",), ("status",), ("down", "--yes"), ("state", "show")):
            ran = pair.run(*words)
            assert ran.code == 1, str(ran)
            assert "schema 3, written by a newer llmfleet" in ran.err
        assert pair.state_file.read_text() == newer
    finally:
        pair.state_file.write_text(text)


def test_what_another_run_started_behind_our_back_stops_up(pair: LiveFleet) -> None:
    """The node's word and the state's differ: neither is believed by itself."""
    state = pair.state
    key = next(k for k in state["processes"] if k != "front/router")
    broken = {**state, "serial": state["serial"] + 100}
    broken["processes"] = {k: v for k, v in state["processes"].items() if k != key}
    pair.state_file.write_text(json.dumps(broken))
    (pair.node_folder("front") / "state.json").write_text(json.dumps(broken))
    ran = pair.run("up")
    assert ran.code == 1, str(ran)
    assert f"{key.replace('/', ': ')} runs there, and the state does not know of it" in ran.err
    pair.ok("state", "rebuild", "--yes")
    as_planned(pair)
    assert pair.state["processes"][key] == state["processes"][key]


def test_a_frozen_engine_gets_no_requests_and_is_started_anew(fleet: LiveFleet) -> None:
    """SIGSTOP: the process is there and answers nothing. Requests go elsewhere; its supervisor ends and restarts it."""
    fleet.ok("up")
    (pid,) = fleet.ours()["n1/story-n1-0"][:1]
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: fleet.run("status", "--json").json["instances"][0]["state"] != "healthy")
        ran = fleet.run("status")
        assert ran.code == 1
        assert "story-n1-0 is unhealthy" in ran.out
        answered = {ask(fleet) for _ in range(8)}
        assert "story-n1-0" not in answered and "" not in answered
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: fleet.run("status", "--json").code == 0)
    as_planned(fleet)


def ask(fleet: LiveFleet) -> str:
    body = {"model": "story", "messages": [{"role": "user", "content": os.urandom(4).hex()}]}
    answer = httpx.post(f"{fleet.url}/v1/chat/completions", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.headers.get("x-llmfleet-instance", "")


def test_a_stolen_port_is_named_with_its_thief(fleet: LiveFleet) -> None:
    port = fleet.plan["instances"][0]["port"]
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.2"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/") as thief:
        until(lambda: is_open("127.0.0.2", port))
        ran = fleet.run("up")
        assert ran.code == 1, str(ran)
        assert f"n1: port {port} is taken by" in ran.err
        assert f"process {thief.pid}" in ran.err
        assert fleet.ours() == {}
        thief.kill()
    fleet.ok("up")
    as_planned(fleet)


def is_open(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def test_every_change_is_on_the_audit_log_here_and_there(pair: LiveFleet) -> None:
    entries = pair.ok("audit", "-n", "1000", "--json").json["entries"]
    starts = [e for e in entries if e["step"].startswith("start story-")]
    assert starts and {e["result"] for e in starts} == {"done"}
    assert all("@" in e["who"] and e["command"] == "up" and e["plan"] for e in starts)
    there = pair.ok("audit", "n1", "-n", "1000", "--json").json["entries"]
    assert [e for e in entries if e["node"] == "n1"] == there
    assert (pair.folder / ".llmfleet/audit.log").stat().st_mode & 0o777 == 0o600
    assert (pair.node_folder("n1") / "logs/audit.log").stat().st_mode & 0o777 == 0o600
    assert "nothing was changed" in pair.ok("audit", "n1", "--inventory", str(_elsewhere(pair))).out


def _elsewhere(fleet: LiveFleet) -> Path:
    """An inventory of another cluster with the same nodes."""
    path = fleet.folder / "other" / "inventory.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text((fleet.folder / "inventory.yaml").read_text().replace("cluster: loop", "cluster: other"))
    return path
