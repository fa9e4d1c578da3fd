"""What systemd keeps and what it starts at boot, with a real one as process 1 of namespaces, and the real commands."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted_fleet import BootedFleet, group_of, parent, until
from systemd_machine import Machine, NoMachineError
from tests.lab.load import Load

pytestmark = [pytest.mark.live, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]

ONE = "llmfleet-loop-n1@story-n1-0.service"
ALL = {ONE, "llmfleet-loop-n2@story-n2-0.service", "llmfleet-loop-front@router.service"}


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


def test_each_process_is_a_service_that_comes_back(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    planned = fleet.ok("up", "--dry-run", "--json").steps
    assert ("n1", "have systemd keep supervisors: llmfleet-loop-n1@.service") in planned
    assert sorted(fleet.ok("up", "--json").steps) == sorted(planned)
    assert fleet.machine.units("active") == ALL
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    before = fleet.lives()
    (engine,) = before["n1/story-n1-0"]
    assert group_of(engine) == ONE, "in a control group of its own"

    os.kill(parent(engine), signal.SIGKILL)
    until(lambda: fleet.lives().get("n1/story-n1-0") not in (None, [engine]) and fleet.healthy())
    after = fleet.lives()
    assert after["n2/story-n2-0"] == before["n2/story-n2-0"], "nobody else noticed"
    assert fleet.ok("up", "--dry-run", "--json").steps == []

    (engine,) = after["n1/story-n1-0"]
    supervisor = parent(engine)
    os.kill(engine, signal.SIGKILL)
    until(lambda: fleet.lives().get("n1/story-n1-0") not in (None, [engine]) and fleet.healthy())
    assert parent(fleet.lives()["n1/story-n1-0"][0]) == supervisor, "an engine that dies is the supervisor's business"


def test_a_reboot_brings_back_what_should_run(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    fleet.ok("up")
    for go_down in (fleet.machine.power_cut, fleet.machine.power_off):
        go_down()
        assert fleet.ours() == {}
        fleet.machine.boot()
        until(lambda: fleet.healthy() and fleet.answers() and len(fleet.lives()) == 2)
        assert fleet.ok("up", "--dry-run", "--json").steps == []
    fleet.ok("drain", "n1", "--yes")
    assert ONE not in fleet.machine.units("active", "failed")
    fleet.machine.power_cut()
    fleet.machine.boot()
    until(lambda: set(fleet.lives()) == {"n2/story-n2-0"} and fleet.answers())
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
    assert fleet.lives().keys() == {"n2/story-n2-0"}
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


def test_what_was_disabled_by_hand_is_put_right(fleet: BootedFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    fleet.ok("up")
    before = fleet.ours()
    for unit in (ONE, "llmfleet-loop-front@router.service"):
        assert fleet.machine.systemctl("disable", unit).returncode == 0
    put_right = [("front", "have systemd start router at boot"), ("n1", "have systemd start story-n1-0 at boot")]
    assert sorted(fleet.ok("up", "--dry-run", "--json").steps) == put_right
    assert sorted(fleet.ok("up", "--json").steps) == put_right
    assert fleet.ours() == before, "nothing was started anew"
    fleet.machine.power_cut()
    fleet.machine.boot()
    until(lambda: fleet.healthy() and fleet.answers())
    fleet.machine.systemctl("disable", "--now", ONE)
    assert fleet.ok("up", "--json").steps == [("n1", "start story-n1-0")]
    assert fleet.ok("up", "--dry-run", "--json").steps == []


def test_the_longest_names_that_an_inventory_takes(fleet: BootedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit's name is limited to 255 bytes, and so is that of a file."""
    assert fleet.machine is not None
    monkeypatch.setattr("live_fleet.CLUSTER", "c" * 63)
    long = BootedFleet(fleet.folder / "long", ("n" * 63,), machine=fleet.machine, runtime={"supervisor": "systemd"})
    long.write(name="s" * 63)
    long.ok("up")
    (engine,) = [unit for unit in fleet.machine.units("active") if "@s" in unit]
    assert 200 < len(engine) <= 255
    assert long.ok("up", "--dry-run", "--json").steps == []
    long.close()
    assert list(fleet.machine.etc.rglob("llmfleet-*")) == []


def test_at_boot_starts_what_ran(fleet: BootedFleet) -> None:
    """The unit that runs once: supervisors are detached, as without it."""
    assert fleet.machine is not None
    fleet.plan_with(at_boot=True)
    fleet.ok("up")
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    for go_down in (fleet.machine.power_cut, fleet.machine.power_off):
        go_down()
        fleet.machine.boot()
        until(lambda: fleet.healthy() and fleet.answers() and len(fleet.lives()) == 2)
        assert fleet.ok("up", "--dry-run", "--json").steps == []
    unit = "llmfleet-loop-n1.service"
    before = fleet.lives()
    assert fleet.machine.systemctl("restart", unit).returncode == 0
    assert fleet.machine.systemctl("stop", unit).returncode == 0
    assert fleet.lives() == before, "it starts what is missing, and ends nothing"
    fleet.plan_with()
    assert fleet.ok("up", "--json").steps[0] == ("front", "start nothing at boot: remove llmfleet-loop-front.service")
    assert fleet.machine.units("active") == set(), "systemd remembers them while their groups have processes"
    assert fleet.lives() == before, "nor does its end"


@pytest.fixture
def elsewhere(fleet: BootedFleet) -> Iterator[BootedFleet]:
    """Not in /tmp, of which the unit of `watch` has its own."""
    with tempfile.TemporaryDirectory(prefix="llmfleet-test-", dir="/dev/shm") as folder:
        made = BootedFleet(Path(folder), ("n1",), machine=fleet.machine)
        yield made
        made.close()


def test_watch_runs_by_its_unit(elsewhere: BootedFleet) -> None:
    machine, unit, said = elsewhere.machine, "llmfleet-watch-loop.service", elsewhere.folder / "said"
    assert machine is not None
    elsewhere.ok("up")
    elsewhere.ok("watch", "--install-unit")
    beside = machine.etc / f"{unit}.d" / "journal.conf"  # the machine has no journal
    beside.parent.mkdir()
    beside.write_text(f"[Service]\nStandardOutput=append:{said}\n")
    try:
        machine.systemctl("daemon-reload")
        assert machine.systemctl("enable", "--now", unit).returncode == 0
        until(lambda: said.exists() and "watching front, n1" in said.read_text())
        machine.systemctl("kill", "--signal=KILL", unit)
        until(lambda: said.read_text().count("watching front, n1") == 2)
    finally:
        machine.systemctl("disable", "--now", unit)
        shutil.rmtree(beside.parent)
        (machine.etc / unit).unlink()
        machine.systemctl("daemon-reload")
