"""`llmfleet watch --apply` on a fleet on Ray Serve: what dies on a node is Serve's, a node that dies is ours."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import inventory_yaml, story
from tests.lab.lab import Lab
from tests.lab.load import Load

pytestmark = [pytest.mark.lab, pytest.mark.long]

SPARE = "h3"  # came after the plan was made
DEAD_AFTER = 20


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    made = LabFleet(lab, tmp_path_factory.mktemp("watched"))
    free: dict[str, Any] = {
        **story(engine_env), "placement": [], "min_instances": 2,
        "traffic": {"rate": 0.05, "input": {"mean": 40}, "output": {"mean": 16}},
    }  # fmt: skip
    whole = inventory_yaml(lab, engine_env, [free], gpus=dict.fromkeys(["h4", "h5"]))
    before = yaml.safe_load(whole)
    for node in before["nodes"]:
        node["exclude"] = node["name"] == SPARE
    made.write(yaml.safe_dump(before))
    made.ok("plan")
    made.ok("up", "--runtime", "ray-serve", timeout=900)
    made.write(whole)
    yield made
    made.run("down", "--yes")


class Watching:
    """The command at work, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(line.strip())

    def wait_for(self, words: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not any(words in line for line in list(self.said)):
            assert time.monotonic() < deadline and self.process.poll() is None, "\n".join(self.said)
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process.wait(60)


@pytest.fixture(scope="module")
def watching(fleet: LabFleet) -> Iterator[Watching]:
    made = Watching(fleet.start("watch", "--apply", "--dead-after", str(DEAD_AFTER), "--interval", "1"))
    made.wait_for("watching head, h1, h2")
    yield made
    made.stop()


def test_a_node_that_only_we_cannot_reach_is_left_alone(fleet: LabFleet, watching: Watching) -> None:
    fleet.lab["h2"].exec(["pkill", "-STOP", "sshd"])
    watching.wait_for("h2 does not answer here, but the router reaches its engines")
    fleet.lab["h2"].exec(["pkill", "-CONT", "sshd"])
    watching.wait_for("h2 answers again")


def test_an_engine_that_dies_is_left_to_serve(fleet: LabFleet, watching: Watching) -> None:
    fleet.lab["h1"].exec(["pkill", "-9", "-f", "^[^ ]*python [^ ]*/llamacpp_server.py"])
    watching.wait_for("story-h1-0 is starting")
    watching.wait_for("no longer: story-h1-0")
    assert not any("plan" in line or "dead" in line for line in watching.said[1:]), watching.said


def test_a_node_that_dies_is_planned_around(fleet: LabFleet, watching: Watching) -> None:
    with Load(fleet.url, "story", clients=2, max_tokens=16, seconds=900, limit=50_000, timeout=240, pause=1) as load:
        load.wait_for(4, seconds=120)
        fleet.lab["h2"].power_cut()
        watching.wait_for("h2 has not answered for")
        watching.wait_for("is up; inventory.yaml still has h2", seconds=300)
        fleet.wait_until_planned()
        load.wait_for(4, seconds=120)
    load.stop()
    assert fleet.states() == {"story-h1-0": "healthy", f"story-{SPARE}-0": "healthy"}
    assert not [r for r in load.failed if not r.streaming], load.summary()
    assert watching.process.poll() is None, "it goes on watching"
