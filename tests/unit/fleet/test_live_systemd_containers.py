"""Engines in containers whose supervisors systemd keeps: podman and systemd are real, the engine in the image a double.

A container is no child of its client and in no control group of the unit: what systemd kills leaves it behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted_fleet import BootedFleet, parent, until
from live_fleet import DOUBLE
from systemd_machine import Machine, NoMachineError
from tests.lab.podman import IMAGE, podman_in
from tests.lab.system import LabUnavailableError

from llmfleet.launch.commands.container import container_name
from llmfleet.launch.commands.llamacpp import IMAGE_SERVER
from llmfleet.launch.fleet import NodeFolder

pytestmark = [pytest.mark.live, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]

ONE = "llmfleet-loop-n1@story-n1-0.service"
SERVER = "#!/usr/bin/python3\n" + DOUBLE.read_text()


class ContainedFleet(BootedFleet):
    def podman(self, *words: str) -> list[str]:
        """Asked on the machine, whose processes its containers are."""
        assert self.machine is not None
        argv = self.machine.enter("podman", *words)
        own = {**os.environ, **self.env}
        return subprocess.run(argv, env=own, capture_output=True, text=True, timeout=60, check=True).stdout.split()

    def containers(self) -> set[str]:
        return set(self.podman("ps", "--format", "{{.Names}}"))

    def identity(self, node: str) -> str:
        listed = self.podman("ps", "--format", "{{.Names}}={{.ID}}")
        return next((each for each in listed if each.startswith(self.named(node))), "")

    def named(self, node: str) -> str:
        return container_name(NodeFolder(str(self.node_folder(node))), f"story-{node}-0")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ContainedFleet]:
    try:
        own = podman_in(tmp_path / "podman", {IMAGE_SERVER: SERVER})
        machine = Machine(tmp_path / "machine")
        machine.boot()
    except (LabUnavailableError, NoMachineError) as why:
        pytest.skip(str(why))
    try:
        made = ContainedFleet(tmp_path, ("n1", "n2"), machine=machine, env=own)
        made.plan_with(supervisor="systemd", kind="podman", image=IMAGE, env=own)
        yield made
        made.close()
        assert list(machine.etc.rglob("llmfleet-*")) == []
        assert made.containers() == set()
    finally:
        machine.power_cut()


def test_containers_come_back_once_and_go_for_good(fleet: ContainedFleet) -> None:
    assert fleet.machine is not None
    both = {fleet.named("n1"), fleet.named("n2")}
    fleet.ok("up")
    assert fleet.containers() == both
    assert fleet.machine.units("active") >= {ONE}
    assert fleet.ok("up", "--dry-run", "--json").steps == []

    client = min(fleet.lives()["n1/story-n1-0"])
    before = fleet.identity("n1")
    os.kill(parent(client), signal.SIGKILL)
    until(lambda: fleet.containers() == both and fleet.identity("n1") != before and fleet.healthy())

    assert fleet.machine.systemctl("stop", ONE).returncode == 0
    assert fleet.containers() == {fleet.named("n2")}
    assert fleet.ok("up", "--json").steps == [("n1", "start story-n1-0")]

    fleet.ok("drain", "n2", "--yes")
    assert fleet.containers() == {fleet.named("n1")}
    fleet.ok("undrain", "n2")

    for go_down in (fleet.machine.power_cut, fleet.machine.power_off):
        go_down()
        fleet.machine.boot()
        until(lambda: fleet.healthy() and fleet.answers())
        assert fleet.containers() == both
        assert fleet.ok("up", "--dry-run", "--json").steps == []
