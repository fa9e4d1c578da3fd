"""An instance over two hosts without Ray: vLLM's own processes, weights that go from host to host, a rank that dies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import MARKER, LabFleet
from tests.lab.inventory import chat, inventory_yaml
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab
INSTANCE = "chat-h1-0"


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    made = LabFleet(lab, tmp_path_factory.mktemp("ranks"))
    shutil.copytree(engine_env.chat, made.folder / "weights")
    service = chat(engine_env, ["h1", "h2"])
    del service["path"]
    made.write(inventory_yaml(lab, engine_env, [service | {"source": "./weights"}], policy={"multi_node": "mp"}))
    yield made
    made.run("down", "--yes")


def ask(fleet: LabFleet) -> httpx.Response:
    body = {"model": "chat", "prompt": "The quick brown fox jumps over the lazy dog, and then", "max_tokens": 4}
    return httpx.post(f"{fleet.url}/v1/completions", json=body, timeout=60, trust_env=False)


def ranks(fleet: LabFleet, host: str) -> list[int]:
    """Process ids of the whole instance's part on the host."""
    return sorted(p.pid for p in fleet.ours(host) if p.environ[MARKER].rpartition("/")[2].startswith(INSTANCE))


def test_it_answers_without_ray_on_weights_of_which_one_copy_was_sent(fleet: LabFleet) -> None:
    fleet.ok("plan")
    said = fleet.ok("up", timeout=900)
    assert ask(fleet).json()["system_fingerprint"].startswith("vllm-0.32.0-pp2")
    assert ranks(fleet, "h1") and ranks(fleet, "h2")
    assert not any("ray" in " ".join(p.argv[:4]) for host in fleet.lab.hosts for p in fleet.ours(host)), said.err
    for host in ("h1", "h2"):
        names = fleet.lab[host].exec(["sh", "-c", "ls /root/.llmfleet/lab/*/models/weights"]).stdout
        assert "config.json" in names
    assert fleet.ok("up", "--dry-run", "--json").json["changed"] == []


def test_a_rank_that_dies_has_the_whole_instance_start_again(fleet: LabFleet) -> None:
    before = {host: set(ranks(fleet, host)) for host in ("h1", "h2")}
    victim = next(p.pid for p in fleet.ours("h2") if any("vllm_rank.py" in word for word in p.argv))
    fleet.lab["h2"].exec(["kill", "-9", str(victim)])
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        now = {host: set(ranks(fleet, host)) for host in before}
        renewed = all(now[host] and not now[host] & before[host] for host in before)
        if renewed and fleet.states().get(INSTANCE) == "healthy":
            break
        time.sleep(2)
    assert ask(fleet).status_code == 200
    assert not set(ranks(fleet, "h1")) & before["h1"], "the first node's part was started anew too"
