"""What systemd keeps and what it starts at boot, with a real one as process 1 of namespaces, and the real commands."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live_fleet import LiveFleet
from systemd_machine import Machine, NoMachineError
from tests.lab.load import Load

pytestmark = [pytest.mark.live, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]

ONE = "llmfleet-loop-n1@story-n1-0.service"
ALL = {ONE, "llmfleet-loop-n2@story-n2-0.service", "llmfleet-loop-front@router.service"}


@dataclass
class BootedFleet(LiveFleet):
    """All of its nodes are one machine with systemd. Commands are typed there."""

    machine: Machine | None = None

    def command(self, *words: str) -> list[str]:
        assert self.machine is not None
        return self.machine.enter("env", "-C", str(self.folder), *super().command(*words))

    def plan_with(self, **runtime: Any) -> None:
        self.runtime = runtime
        self.write()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=2) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def status_of(self, node: str, name: str) -> dict[str, Any]:
        """As its supervisor has written it, with process numbers of that machine."""
        path = self.node_folder(node) / "run" / name / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"state": "none"}
        return found

    def healthy(self) -> bool:
        return all(self.status_of(n, f"story-{n}-0")["state"] == "healthy" for n in self.nodes)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[BootedFleet]:
    try:
        machine = Machine(tmp_path / "machine")
        machine.boot()
    except NoMachineError as why:
        pytest.skip(str(why))
    try:
        made = BootedFleet(tmp_path, ("n1", "n2"), machine=machine)
        yield made
        made.close()
        assert list(machine.etc.rglob("llmfleet-*")) == []
        assert machine.units() == set()
        assert made.ours() == {}
    finally:
        machine.power_cut()


def until(condition: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().rpartition("/")[2].strip()


def lives_of(fleet: BootedFleet) -> dict[str, list[int]]:
    return {key: pids for key, pids in fleet.ours().items() if not key.endswith("/router")}


def test_each_process_is_a_service_that_comes_back(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    planned = fleet.ok("up", "--dry-run", "--json").steps
    assert ("n1", "have systemd keep supervisors: llmfleet-loop-n1@.service") in planned
    assert sorted(fleet.ok("up", "--json").steps) == sorted(planned)
    assert fleet.machine.units("active") == ALL
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    before = lives_of(fleet)
    (engine,) = before["n1/story-n1-0"]
    assert group_of(engine) == ONE, "in a control group of its own"

    os.kill(parent(engine), signal.SIGKILL)
    until(lambda: lives_of(fleet).get("n1/story-n1-0") not in (None, [engine]) and fleet.healthy())
    after = lives_of(fleet)
    assert after["n2/story-n2-0"] == before["n2/story-n2-0"], "nobody else noticed"
    assert fleet.ok("up", "--dry-run", "--json").steps == []

    (engine,) = after["n1/story-n1-0"]
    supervisor = parent(engine)
    os.kill(engine, signal.SIGKILL)
    until(lambda: lives_of(fleet).get("n1/story-n1-0") not in (None, [engine]) and fleet.healthy())
    assert parent(lives_of(fleet)["n1/story-n1-0"][0]) == supervisor, "an engine that dies is the supervisor's business"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_a_reboot_brings_back_what_should_run(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    fleet.ok("up")
    for go_down in (fleet.machine.power_cut, fleet.machine.power_off):
        go_down()
        assert fleet.ours() == {}
        fleet.machine.boot()
        until(lambda: fleet.healthy() and fleet.answers() and len(lives_of(fleet)) == 2)
        assert fleet.ok("up", "--dry-run", "--json").steps == []
    fleet.ok("drain", "n1", "--yes")
    assert ONE not in fleet.machine.units("active", "failed")
    fleet.machine.power_cut()
    fleet.machine.boot()
    until(lambda: set(lives_of(fleet)) == {"n2/story-n2-0"} and fleet.answers())
    assert ONE not in fleet.machine.units("active", "activating", "failed")
    fleet.ok("undrain", "n1")
    assert fleet.machine.units("active") == ALL


def test_changes_roll_into_systemd_and_out_of_it(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.ok("up")
    assert fleet.machine.units() == set()
    fleet.plan_with(supervisor="systemd")
    planned = fleet.ok("up", "--dry-run", "--json").steps
    assert sorted(fleet.ok("up", "--json").steps) == sorted(planned)
    assert fleet.machine.units("active") == ALL
    fleet.write(context=2048)
    with Load(fleet.url, "story") as load:
        load.wait_for(4)
        fleet.ok("up")
        load.wait_for(4)
    load.stop()
    assert not load.failed and not load.cut, load.summary()
    assert fleet.machine.units("active") == ALL
    fleet.plan_with()
    planned = fleet.ok("up", "--dry-run", "--json").steps
    assert ("n1", "have systemd keep nothing: remove llmfleet-loop-n1@.service") in planned
    assert sorted(fleet.ok("up", "--json").steps) == sorted(planned)
    assert fleet.machine.units() == set()
    assert fleet.healthy()
    assert fleet.ok("up", "--dry-run", "--json").steps == []


def test_systemctl_stops_gently_and_what_gave_up_is_failed(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    fleet.ok("up")
    assert fleet.machine.systemctl("stop", ONE).returncode == 0
    assert fleet.status_of("n1", "story-n1-0")["last_exit"] == 0, "SIGTERM to the engine, through its supervisor"
    assert lives_of(fleet).keys() == {"n2/story-n2-0"}
    assert fleet.ok("up", "--json").steps == [("n1", "start story-n1-0")]

    sign = fleet.sign("story-n1-0", "dead")
    sign.touch()
    assert fleet.machine.systemctl("stop", ONE).returncode == 0
    ran = fleet.run("up")
    assert ran.code == 1
    assert "this double was told to die" in ran.err
    until(lambda: ONE in fleet.machine.units("failed"))
    sign.unlink()
    fleet.ok("up")
    assert fleet.machine.units("active") == ALL


def test_at_boot_starts_what_ran(fleet: BootedFleet) -> None:
    """The unit that runs once: supervisors are detached, as without it."""
    assert fleet.machine is not None
    fleet.plan_with(at_boot=True)
    fleet.ok("up")
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    for go_down in (fleet.machine.power_cut, fleet.machine.power_off):
        go_down()
        fleet.machine.boot()
        until(lambda: fleet.healthy() and fleet.answers() and len(lives_of(fleet)) == 2)
        assert fleet.ok("up", "--dry-run", "--json").steps == []
    unit = "llmfleet-loop-n1.service"
    before = lives_of(fleet)
    assert fleet.machine.systemctl("restart", unit).returncode == 0
    assert fleet.machine.systemctl("stop", unit).returncode == 0
    assert lives_of(fleet) == before, "it starts what is missing, and ends nothing"
    fleet.plan_with()
    assert fleet.ok("up", "--json").steps[0] == ("front", "start nothing at boot: remove llmfleet-loop-front.service")
    assert fleet.machine.units("active") == set(), "systemd remembers them while their groups have processes"
    assert lives_of(fleet) == before, "nor does its end"
