"""`llmfleet up --runtime ray-serve` on several hosts: drained, its head killed, and taken down, under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import chat, inventory_yaml
from tests.lab.lab import Lab
from tests.lab.load import Load

pytestmark = [pytest.mark.lab, pytest.mark.long]
KIND = "chat-h"  # both hosts are alike


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    made = LabFleet(lab, tmp_path_factory.mktemp("on-serve"))
    without = dict.fromkeys(["h3", "h4", "h5"])
    made.write(inventory_yaml(lab, engine_env, [chat(engine_env, ["h1"], ["h2"])], gpus=without))
    made.ok("plan")
    made.ok("up", "--runtime", "ray-serve", timeout=900)
    yield made
    made.run("down", "--yes")


def test_it_is_up_and_stays_as_it_is(fleet: LabFleet) -> None:
    assert fleet.states() == {"chat-h1-0": "healthy", "chat-h2-0": "healthy"}
    with Load(fleet.url, "chat", clients=2) as load:
        load.wait_for(8, seconds=120)
    assert {r.instance for r in load.stop()} == {KIND} and not load.failed, load.summary()
    assert fleet.ok("up", "--json").json["changed"] == []
    assert fleet.ok("up", "--dry-run", "--json").json["changed"] == []
    refused = fleet.run("up", "--runtime", "engines")
    assert refused.code == 1 and "llmfleet down" in refused.err, str(refused)


def test_a_drain_and_its_end_lose_no_request(fleet: LabFleet) -> None:
    with Load(fleet.url, "chat", clients=4, seconds=900, limit=50_000, pause=1.0) as load:
        load.wait_for(8, seconds=120)
        fleet.ok("drain", "h2")
        assert fleet.states() == {"chat-h1-0": "healthy", "chat-h2-0": "stopped"}
        assert not fleet.ours("h2")
        load.wait_for(8, seconds=120)
        fleet.ok("undrain", "h2")
        load.wait_for(8, seconds=120)
    load.stop()
    assert not load.failed and not load.cut, load.summary()


def test_a_head_that_is_killed_comes_back_and_replicas_serve_on(fleet: LabFleet) -> None:
    fleet.wait_until_planned()
    with Load(fleet.url, "chat", clients=2, seconds=600, limit=50_000, pause=0.3) as load:
        load.wait_for(8, seconds=120)
        fleet.lab["head"].exec(["pkill", "-9", "gcs_server|raylet"])
        load.wait_for(40, seconds=240)
        fleet.wait_until_planned()
        load.wait_for(8, seconds=120)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert fleet.ok("up", "--json").json["changed"] == []


def test_down_leaves_nothing(fleet: LabFleet) -> None:
    fleet.ok("down", "--yes")
    assert not [p for host in fleet.lab.hosts for p in fleet.ours(host)]
