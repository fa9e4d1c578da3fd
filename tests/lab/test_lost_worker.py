"""An instance over two hosts on Ray, of which a Ray process dies: it starts again as a whole, by nobody's hand."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import MARKER, LabFleet
from tests.lab.hosts import HostProcess
from tests.lab.inventory import chat, inventory_yaml
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.long]
INSTANCE = "chat-h1-0"


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    made = LabFleet(lab, tmp_path_factory.mktemp("worker"))
    made.write(inventory_yaml(lab, engine_env, [chat(engine_env, ["h1", "h2"])]))
    made.ok("plan")
    made.ok("up", timeout=900)
    yield made
    made.run("down", "--yes")


def stages(fleet: LabFleet) -> dict[str, list[int]]:
    """Process ids of the instance's workers, by host."""
    hosts = ("h1", "h2")
    return {host: [p.pid for p in fleet.lab[host].processes() if "RayWorker" in " ".join(p.argv)] for host in hosts}


def raylet(fleet: LabFleet, host: str) -> HostProcess:
    ours = [p for p in fleet.ours(host) if p.argv[0].endswith("/raylet")]
    assert len(ours) == 1, [p.argv[:2] for p in fleet.ours(host)]
    return ours[0]


def answers(fleet: LabFleet) -> bool:
    body = {"model": "chat", "prompt": "The quick brown fox", "max_tokens": 4}
    try:
        return httpx.post(f"{fleet.url}/v1/completions", json=body, timeout=20, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_lost_worker_has_the_whole_instance_start_again(fleet: LabFleet) -> None:
    assert answers(fleet)
    before, engine = stages(fleet), fleet.engines("h1")
    assert all(before.values()) and engine == [INSTANCE]
    fleet.lab["h2"].exec(["kill", "-9", str(raylet(fleet, "h2").pid)])
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        now = stages(fleet)
        renewed = all(now[host] and not set(now[host]) & set(before[host]) for host in before)
        if renewed and fleet.states() == {INSTANCE: "healthy"} and answers(fleet):
            break
        time.sleep(3)
    else:
        raise AssertionError(f"{stages(fleet)} after {before}\n{fleet.run('status')}\n{fleet.run('logs', INSTANCE)}")
    assert raylet(fleet, "h2").environ[MARKER].endswith("ray-worker")
    assert fleet.ok("up", "--dry-run", "--json").json["changed"] == []
