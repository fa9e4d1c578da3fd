"""Replicas of Ray Serve follow the load, one node has died: exported files, two hosts of one class."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import chat, inventory_yaml
from tests.lab.lab import Lab
from tests.lab.load import Load
from tests.lab.on_serve import Serve, serving

pytestmark = [pytest.mark.lab, pytest.mark.long]

KIND = "chat-h"  # both hosts are alike
HELD = 4  # fewer than planned: two cores are to carry more than a replica should hold
# Ten minutes are for real traffic.
QUICK = {"target_ongoing_requests": HELD, "upscale_delay_s": 3, "downscale_delay_s": 15, "look_back_period_s": 5}


@pytest.fixture(scope="module")
def served(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    fleet = LabFleet(lab, tmp_path_factory.mktemp("scales"))
    without = dict.fromkeys(["h3", "h4", "h5"])
    fleet.write(inventory_yaml(lab, engine_env, [chat(engine_env, ["h1"], ["h2"])], gpus=without))
    fleet.ok("plan")
    with serving(fleet, engine_env, {KIND: 1}, QUICK) as made:
        yield made


def test_replicas_follow_the_load(served: Serve) -> None:
    served.settle(KIND, 1)
    with Load(served.url, "chat", clients=2, seconds=1200, limit=50_000, pause=1.0) as few:
        few.wait_for(8, seconds=120)
        assert served.status()[KIND] == 1
        with Load(served.url, "chat", clients=2 * HELD, seconds=600, limit=50_000, timeout=300) as many:
            served.settle(KIND, 2)
            many.wait_for(8, seconds=120)
        served.settle(KIND, 1)
        few.wait_for(8, seconds=120)
    for load in (many, few):
        load.stop()
        assert not load.failed and not load.cut, load.summary()


def test_a_node_that_vanishes_takes_only_streams_with_it(served: Serve) -> None:
    with Load(served.url, "chat", clients=2 * HELD, seconds=1200, limit=50_000, timeout=300) as load:
        served.settle(KIND, 2)
        load.wait_for(8, seconds=120)
        served.fleet.lab["h2"].power_cut()
        load.wait_for(60, seconds=300)
    load.stop()
    assert not [r for r in load.failed if not r.streaming], load.summary()
