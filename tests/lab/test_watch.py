"""`llmfleet watch` on hosts that die: what it says, what it puts in place, and what a rolling `up` does meanwhile."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from threading import Timer
from typing import IO

import httpx
import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import chat, inventory_yaml
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.long]

WITHIN_S = 300
LITTLE = {"rate": 0.1, "input": {"mean": 50}, "output": {"mean": 8}}


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    """One instance, wherever the planner wants it: traffic for more there is not."""
    made = LabFleet(lab, tmp_path_factory.mktemp("watched"))
    service = chat(engine_env, nodes=["h1", "h2", "h3"], traffic=LITTLE)
    del service["placement"]
    made.write(inventory_yaml(lab, engine_env, [service], policy={"objective": "min-nodes"}))
    made.ok("plan")
    made.ok("up", timeout=900)
    yield made
    made.run("down", "--yes", "--skip-unreachable")


def ask(fleet: LabFleet) -> httpx.Response:
    body = {"model": "chat", "prompt": "Apache", "max_tokens": 4}
    return httpx.post(f"{fleet.url}/v1/completions", json=body, timeout=60, trust_env=False)


def heard(process: subprocess.Popen[str], stream: IO[str] | None, pattern: str) -> tuple[str, re.Match[str]]:
    """What it said there until a line matched, and the match."""
    said = []
    late = Timer(WITHIN_S, process.kill)
    late.start()
    try:
        for line in stream or ():
            said.append(line)
            if found := re.search(pattern, line):
                return "".join(said), found
    finally:
        late.cancel()
    raise AssertionError(f"never said: {pattern}\n{''.join(said)}")


def home(fleet: LabFleet) -> str:
    (instance,) = fleet.plan["instances"]
    return str(instance["nodes"][0])


def test_a_dead_host_s_service_is_taken_elsewhere(fleet: LabFleet) -> None:
    lost = home(fleet)
    inventory = (fleet.folder / "inventory.yaml").read_text()
    assert ask(fleet).status_code == 200
    watch = fleet.start("watch", "--apply", "--dead-after", "10", "--interval", "2")
    try:
        heard(watch, watch.stdout, f"watching head, {lost}")
        fleet.lab[lost].power_cut()
        said, _ = heard(watch, watch.stdout, " is up; inventory.yaml still has")
        assert f"{lost} does not answer" in said
        assert f"{lost} has not answered for" in said and "it is taken for dead" in said
        found = home(fleet)
        assert found != lost
        answer = ask(fleet)
        assert (answer.status_code, answer.headers["x-llmfleet-instance"]) == (200, f"chat-{found}-0")
        assert fleet.states() == {f"chat-{found}-0": "healthy"}
        assert (fleet.folder / "inventory.yaml").read_text() == inventory
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0
    finally:
        watch.kill()
        watch.communicate()


def test_a_host_that_dies_while_a_roll_waits_for_it(fleet: LabFleet, engine_env: EngineEnv) -> None:
    """Two instances become others, one after the other; the first one's host dies as its new engine starts."""
    fleet.run("down", "--yes", "--skip-unreachable")
    fleet.write(inventory_yaml(fleet.lab, engine_env, [chat(engine_env, ["h2"], ["h3"])]))
    fleet.ok("plan")
    fleet.ok("up", timeout=900)
    fleet.write(inventory_yaml(fleet.lab, engine_env, [chat(engine_env, ["h2"], ["h3"], context=1024)]))
    fleet.ok("plan")
    rolling = fleet.start("up")
    first = heard(rolling, rolling.stderr, r"^(h[23]): start chat-\1-0")[1][1]
    other = {"h2": "h3", "h3": "h2"}[first]
    fleet.lab[first].power_cut()
    said = rolling.communicate(timeout=WITHIN_S)[1]
    assert rolling.returncode != 0
    assert first in said.rpartition("error")[2], said
    answers = [ask(fleet) for _ in range(8)]
    assert {(a.status_code, a.headers["x-llmfleet-instance"]) for a in answers} == {(200, f"chat-{other}-0")}
    fleet.lab[first].power_on()
    fleet.ok("up", timeout=900)
    assert fleet.states() == {"chat-h2-0": "healthy", "chat-h3-0": "healthy"}
    assert {a["max_model_len"] for a in fleet.plan["instances"]} == {1024}
