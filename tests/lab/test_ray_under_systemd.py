"""Ray's own processes as services of systemd: both real, head and worker on one machine of namespaces, by the units
and command lines that `up` makes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmfleet.launch.commands.ray import (
    NODE_RESOURCE,
    Managed,
    parse_ray_status,
    ray_address_env,
    ray_head_process,
    ray_status_command,
    ray_worker_process,
)
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.phases.scripts import scripts
from llmfleet.launch.units.service import ServiceUnit
from llmfleet.planner.inventory.model import Node, Runtime
from tests.lab.engines import EngineEnv
from tests.unit.fleet.systemd_machine import Machine, NoMachineError

pytestmark = pytest.mark.lab


class RayNode:
    """A node's folder, and the service of the one process on it."""

    def __init__(self, name: str, folder: Path, machine: Machine, python: Path, address: str) -> None:
        self.folder, self.machine, self.address = NodeFolder(str(folder)), machine, address
        self.node = Node(name=name, host=address, runtime=Runtime(python=str(python), supervisor="systemd"))
        self.unit = ServiceUnit("lab", name, self.folder, "/root", True)
        (folder / "bin").mkdir(parents=True)
        for script, body in scripts().items():
            Path(self.folder.script(script)).write_bytes(body)
        boot = BootFacts(True, True, True, sys.executable, os.environ["PATH"])
        (machine.etc / self.unit.name).write_text(self.unit.text(self.node.runtime, boot))

    def put(self, process: Process) -> None:
        self.process = replace(process, unit=self.unit.of(process.name))
        rundir = Path(self.folder.process(process.name))
        rundir.mkdir(parents=True)
        (rundir / "spec.json").write_text(json.dumps(self.process.spec()))

    def supervise(self, command: str) -> dict[str, object]:
        rundir = self.folder.process(self.process.name)
        argv = self.machine.enter(sys.executable, self.folder.script("supervise.py"), command, rundir)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def members(self) -> dict[int, str]:
        """Processes in the unit's control group, with their names."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"/{self.process.unit}\n" in (folder / "cgroup").read_text():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found


@pytest.fixture
def pair(tmp_path: Path, engines: EngineEnv) -> Iterator[tuple[RayNode, RayNode]]:
    try:
        machine = Machine(tmp_path / "machine")
        machine.boot()
    except NoMachineError as why:
        pytest.skip(str(why))
    address = socket.gethostbyname(socket.gethostname())
    try:
        head, worker = (RayNode(n, tmp_path / n, machine, engines.python, address) for n in ("head", "h1"))
        head.put(ray_head_process(head.node, address=address, folder=head.folder))
        managed = Managed(accelerator="cpu")
        worker.put(
            ray_worker_process(
                worker.node, address=address, folder=worker.folder, head_address=address, managed=managed
            )
        )
        machine.systemctl("daemon-reload")
        yield head, worker
    finally:
        machine.power_cut()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


def joined(head: RayNode) -> tuple[str, ...]:
    argv = head.machine.enter(*ray_status_command(head.node, ray_address_env(head.address)["RAY_ADDRESS"]))
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout
    return tuple(name for name in ("h1", "head") if f"{NODE_RESOURCE}{name}" in text) or parse_ray_status(text)


def test_ray_is_a_service_that_comes_back_and_goes(pair: tuple[RayNode, RayNode]) -> None:
    head, worker = pair
    for each in pair:
        assert each.supervise("start")["state"] in ("starting", "healthy")
    until(lambda: joined(head) == ("h1", "head"))
    assert any("raylet" in line for line in worker.members().values()), "in the unit's control group, workers too"
    first = worker.members()
    os.kill(next(pid for pid, line in first.items() if "supervisor.py" in line), signal.SIGKILL)
    until(lambda: any("raylet" in line for pid, line in worker.members().items() if pid not in first))
    assert not set(first) & set(worker.members()), "nothing of the former life is left"
    until(lambda: joined(head) == ("h1", "head"))
    for each in (worker, head):
        assert each.supervise("stop")["state"] == "exited"
        assert each.members() == {}
    assert head.machine.units("active", "failed") == set()
