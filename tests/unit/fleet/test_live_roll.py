"""Changing what runs while clients ask: no request fails and no stream is cut, whatever the change."""

from __future__ import annotations

import json
import re

import pytest
from live_fleet import LiveFleet
from tests.lab.load import Load

pytestmark = pytest.mark.live


def contexts(fleet: LiveFleet) -> dict[str, str]:
    """Context of all slots of each engine that runs, from its command line."""
    return {key: re.findall(r"--ctx-size (\d+)", argv)[0] for key, argv in fleet.engines().items()}


def test_a_changed_plan_rolls_and_goes_back_without_a_failed_request(fleet: LiveFleet) -> None:
    """Doubles end at once when they are told to: only what is out of the router and idle may be stopped."""
    fleet.ok("up")
    old = fleet.plan["hash"]
    fleet.write(context=2048)
    with Load(fleet.url, "story") as load:
        load.wait_for(8)
        planned = fleet.ok("up", "--dry-run", "--json").steps
        done = fleet.ok("up", "--max-unavailable", "50%", "--json").steps
        load.wait_for(8)
        assert contexts(fleet) == {f"n{n}/story-n{n}-0": "16384" for n in (1, 2, 3)}
        fleet.ok("up", "--plan", old[:6], "--max-unavailable", "2")
        load.wait_for(8)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert sorted(done) == sorted(planned), "one node at a time in the one, half of them in the other: the same steps"
    assert contexts(fleet) == {f"n{n}/story-n{n}-0": "8192" for n in (1, 2, 3)}
    assert fleet.plan["hash"] == old
    assert fleet.ok("up", "--plan", old, "--dry-run", "--json").steps == []


def test_a_moved_instance_starts_before_the_old_one_stops(fleet: LiveFleet) -> None:
    fleet.write(["n1", "n2"])
    fleet.ok("up")
    fleet.write(["n2", "n3"])
    with Load(fleet.url, "story") as load:
        load.wait_for(8)
        steps = [title for _, title in fleet.ok("up", "--json").steps]
        load.wait_for(8)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert steps.index("start story-n3-0") < steps.index("take story-n1-0 out of rotation")
    assert set(fleet.engines()) == {"n2/story-n2-0", "n3/story-n3-0"}
    assert fleet.ok("up", "--dry-run", "--json").steps == []


def test_a_roll_stops_at_the_first_engine_that_does_not_start(fleet: LiveFleet) -> None:
    fleet.ok("up")
    old = fleet.plan["hash"][:6]
    fleet.write(context=2048)
    fleet.sign("story-n2-0", "dead").touch()
    with Load(fleet.url, "story") as load:
        load.wait_for(8)
        ran = fleet.run("up")
        load.wait_for(8)
        assert ran.code == 1, str(ran)
        assert "story-n2-0 did not start" in ran.err
        assert "this double was told to die" in ran.err
        assert f"llmfleet up --plan {old}" in ran.err
        assert contexts(fleet) == {"n1/story-n1-0": "16384", "n3/story-n3-0": "8192"}
        fleet.sign("story-n2-0", "dead").unlink()
        fleet.ok("up", "--plan", old)
        load.wait_for(8)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert contexts(fleet) == {f"n{n}/story-n{n}-0": "8192" for n in (1, 2, 3)}


def release(fleet: LiveFleet, version: str) -> str:
    """A fake release of llama-server beside the others, which says which one it is."""
    place = fleet.folder / f"llama-{version}" / "llama-server"
    place.parent.mkdir()
    place.write_text((fleet.folder / "llama-server").read_text())
    place.chmod(0o755)
    return str(place)


def releases(fleet: LiveFleet) -> dict[str, str]:
    """The release that each engine was started from, by the supervisor's own account."""
    specs = {i["id"]: fleet.node_folder(i["nodes"][0]) / "run" / i["id"] / "spec.json" for i in fleet.plan["instances"]}
    return {name: json.loads(path.read_text())["argv"][0] for name, path in specs.items()}


def test_an_upgrade_from_the_inventory_to_the_last_engine_without_a_failed_request(fleet: LiveFleet) -> None:
    """Two fake versions of the engine: what is new, where it lies and its number are all that is given."""
    fleet.ok("up")
    old, before = fleet.plan["hash"][:6], fleet.begun()
    inventory = fleet.folder / "inventory.yaml"
    text = inventory.read_text()
    words = ("upgrade", "llama.cpp", "2.0.0", "--llama-server", release(fleet, "2.0.0"))
    with Load(fleet.url, "story") as load:
        load.wait_for(8)
        planned = fleet.ok(*words, "--dry-run", "--json").steps
        assert inventory.read_text() == text and fleet.plan["hash"][:6] == old, "a dry run writes nothing"
        done = fleet.ok(*words, "--yes", "--json")
        load.wait_for(8)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert done.steps == planned
    assert f"plan {old} is up" in done.err and "2.0.0" in done.err
    assert set(releases(fleet).values()) == {words[-1]}
    assert {i["engine_version"] for i in fleet.plan["instances"]} == {"2.0.0"}
    assert fleet.begun() == {key: count + 1 for key, count in before.items() if "router" not in key} | {
        key: count for key, count in before.items() if "router" in key
    }
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    refused = fleet.run(*words, "--yes")
    assert refused.code == 2 and "has llama.cpp 2.0.0 already" in refused.err


def test_an_upgrade_that_does_not_start_stops_at_its_first_node_and_goes_back(fleet: LiveFleet) -> None:
    fleet.ok("up")
    old, before = fleet.plan["hash"][:6], releases(fleet)
    fleet.sign("story-n1-0", "dead").touch()
    with Load(fleet.url, "story") as load:
        load.wait_for(8)
        ran = fleet.run("upgrade", "llama.cpp", "2.0.0", "--llama-server", release(fleet, "2.0.0"), "--yes")
        load.wait_for(8)
        assert ran.code == 1, str(ran)
        assert "story-n1-0 did not start" in ran.err and f"llmfleet up --plan {old}" in ran.err
        assert set(fleet.engines()) == {"n2/story-n2-0", "n3/story-n3-0"}
        fleet.sign("story-n1-0", "dead").unlink()
        fleet.ok("up", "--plan", old)
        load.wait_for(8)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert releases(fleet) == before
