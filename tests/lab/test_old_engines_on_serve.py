"""Engines that Serve LLM cannot run, as children of Ray Serve's replicas: llama.cpp on one class of node."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.hosts import HostProcess
from tests.lab.inventory import chat, inventory_yaml, story
from tests.lab.lab import Lab
from tests.lab.load import Load

pytestmark = [pytest.mark.lab, pytest.mark.long]

KIND, HOSTS = "story-h", ("h2", "h3")  # both are alike
CLASSES = {"h2": "1 x CPU-3G", "h3": "1 x CPU-3G", "h4": None, "h5": None}
NO_MODEL = "/srv/no-model.gguf"


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    made = LabFleet(lab, tmp_path_factory.mktemp("old-engines"))
    services = [chat(engine_env, ["h1"]), story(engine_env, *([host] for host in HOSTS))]
    made.write(inventory_yaml(lab, engine_env, services, gpus=CLASSES))
    made.ok("plan")
    made.ok("doctor", "--runtime", "ray-serve")
    made.ok("up", "--runtime", "ray-serve", timeout=900)
    yield made
    made.run("down", "--yes")


def engines(fleet: LabFleet, host: str) -> list[HostProcess]:
    """The processes of llama.cpp itself."""
    return [p for p in fleet.lab[host].processes() if len(p.argv) > 1 and p.argv[1].endswith("/llamacpp_server.py")]


def engine(fleet: LabFleet, host: str) -> int:
    """Its process id."""
    (one,) = engines(fleet, host)
    return one.pid


def replica(fleet: LabFleet, host: str) -> int:
    (one,) = [p for p in fleet.lab[host].processes() if p.argv[0].startswith("ray::ServeReplica:lab:story")]
    return one.pid


def renewed(fleet: LabFleet, host: str, before: int, seconds: float = 300) -> None:
    """Waits until another engine runs on the host, and nothing is left of the one before."""
    deadline = time.monotonic() + seconds
    while not (now := [p.pid for p in engines(fleet, host)]) or before in now:
        assert time.monotonic() < deadline, f"{now} after {before}\n{fleet.run('status')}"
        time.sleep(1)
    fleet.wait_until_planned()


def load(fleet: LabFleet, service: str = "story") -> Load:
    """`timeout`: of a request, longer than an engine may hang."""
    return Load(fleet.url, service, clients=4, max_tokens=16, seconds=900, limit=50_000, timeout=240, pause=0.5)


@pytest.mark.parametrize("service", ["story", "chat"])
def test_both_engines_answer_streamed_and_whole(fleet: LabFleet, service: str) -> None:
    assert set(fleet.states().values()) == {"healthy"}
    with load(fleet, service) as asked:
        asked.wait_for(12, seconds=120)
    asked.stop()
    assert not asked.failed and not asked.cut, asked.summary()
    assert {r.streaming for r in asked.good} == {True, False}
    assert {r.instance for r in asked.good} == {KIND if service == "story" else "chat-h1"}


def test_an_engine_that_dies_loses_no_request(fleet: LabFleet) -> None:
    before = engine(fleet, "h2")
    with load(fleet) as asked:
        asked.wait_for(4, seconds=120)
        fleet.lab["h2"].exec(["kill", "-9", str(before)])
        asked.wait_for(8, seconds=120)
        renewed(fleet, "h2", before)
        asked.wait_for(8, seconds=120)
    asked.stop()
    assert not asked.failed, asked.summary()


def test_an_engine_that_hangs_is_killed_and_its_requests_are_asked_of_another(fleet: LabFleet) -> None:
    before = engine(fleet, "h3")
    with load(fleet) as asked:
        asked.wait_for(4, seconds=120)
        fleet.lab["h3"].exec(["kill", "-STOP", str(before)])
        renewed(fleet, "h3", before)
        asked.wait_for(8, seconds=120)
    asked.stop()
    assert not asked.failed, asked.summary()


def test_a_replica_that_dies_takes_its_engine_along(fleet: LabFleet) -> None:
    before = engine(fleet, "h2")
    fleet.lab["h2"].exec(["kill", "-9", str(replica(fleet, "h2"))])
    renewed(fleet, "h2", before)
    assert len(engines(fleet, "h2")) == 1


def test_a_drain_and_its_end_lose_no_request_and_leave_no_engine(fleet: LabFleet) -> None:
    with load(fleet) as asked:
        asked.wait_for(4, seconds=120)
        fleet.ok("drain", "h2")
        assert not fleet.ours("h2") and not engines(fleet, "h2")
        asked.wait_for(4, seconds=120)
        fleet.ok("undrain", "h2")
        asked.wait_for(4, seconds=120)
    asked.stop()
    assert not asked.failed and not asked.cut, asked.summary()


def test_down_leaves_nothing_even_of_an_engine_that_hangs(fleet: LabFleet) -> None:
    fleet.lab["h3"].exec(["kill", "-STOP", str(engine(fleet, "h3"))])
    fleet.ok("down", "--yes")
    assert not [p for host in fleet.lab.hosts for p in (*fleet.ours(host), *engines(fleet, host))]


def test_an_engine_that_cannot_start_is_told_with_place_and_reason(fleet: LabFleet, engine_env: EngineEnv) -> None:
    for host in HOSTS:
        fleet.lab[host].put(NO_MODEL, "this is no model")
    broken = story(engine_env, *([host] for host in HOSTS)) | {"model": str(engine_env.story), "path": NO_MODEL}
    fleet.write(inventory_yaml(fleet.lab, engine_env, [chat(engine_env, ["h1"]), broken], gpus=CLASSES))
    fleet.ok("plan")
    ran = fleet.run("up", "--runtime", "ray-serve", timeout=900)
    assert ran.code == 1, str(ran)
    for words in (f"could not deploy {KIND}", "did not start on h", f"failed to load model from {NO_MODEL}"):
        assert words in ran.err, str(ran)
    assert f"{KIND}: RuntimeError: the engine did not start on h" in fleet.ok("logs", "application").out
    fleet.ok("down", "--yes")
    assert not [p for host in fleet.lab.hosts for p in (*fleet.ours(host), *engines(fleet, host))]
