"""Instances over several nodes without Ray: a rank on each further node, which lives and goes with its engine."""

from __future__ import annotations

import pytest
from sim_fleet import PIPELINE, Sim, make_plan

from llmfleet.launch.down import down
from llmfleet.launch.drain import drain, undrain
from llmfleet.launch.phases import ray
from llmfleet.launch.status import status
from llmfleet.launch.up import up

RANK = f"{PIPELINE}-rank1"


@pytest.fixture
def ranks(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> Sim:
    sim.plan = make_plan(multi_node="mp")
    monkeypatch.setattr(ray, "JOIN_WITHIN_S", 0)  # nothing waits for Ray
    return sim


def test_each_node_has_its_part_and_no_ray_runs(ranks: Sim) -> None:
    up(ranks.fleet)
    living = ranks.living()
    assert (living["h3"], living["h4"]) == ({PIPELINE}, {RANK})
    assert not any(name.startswith("ray") for names in living.values() for name in names)
    assert up(ranks.fleet).changed == ()
    found = status(ranks.fleet)
    assert found.ok
    assert found.ray is None


def test_draining_either_node_stops_both_parts(ranks: Sim) -> None:
    up(ranks.fleet)
    for node in ("h3", "h4"):
        drain(ranks.fleet, node)
        assert "h3" not in ranks.living()
        assert "h4" not in ranks.living()
        undrain(ranks.fleet, node)
        assert (ranks.living()["h3"], ranks.living()["h4"]) == ({PIPELINE}, {RANK})


def test_from_ray_to_ranks_and_back(sim: Sim) -> None:
    up(sim.fleet)
    before = sim.living()
    sim.plan = make_plan(multi_node="mp")
    up(sim.fleet)
    assert sim.living()["h4"] == {RANK}
    assert not any(name.startswith("ray") for names in sim.living().values() for name in names)
    sim.plan = make_plan()
    up(sim.fleet)
    assert sim.living() == before


def test_down_leaves_nothing(ranks: Sim) -> None:
    up(ranks.fleet)
    down(ranks.fleet)
    assert ranks.living() == {}
