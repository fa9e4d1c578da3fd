"""What a node is: the answer of launch/remote/facts.py as values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from llmfleet.launch.nodes.gpu_tools import GPU_TOOLS, parse_cuda
from llmfleet.launch.nodes.gpu_tools import GpuFacts as GpuFacts  # part of what a node is
from llmfleet.launch.nodes.gpu_tools import parse_nvidia_smi as parse_nvidia_smi
from llmfleet.launch.nodes.probe import ProcessStatus, process_status
from llmfleet.launch.transport.base import Argv

SCRIPT = Path(__file__).resolve().parents[1] / "remote" / "facts.py"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GpuUser:
    """A process that holds memory of a GPU. What another user's process hides is None."""

    gpu: str  # its UUID
    pid: int
    mib: int
    name: str | None = None
    user: str | None = None
    marker: str | None = None  # DIR/NAME of our own process


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    mtu: int | None
    mbits: int | None  # speed in Mbit/s; None where the interface has none, as virtual ones


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """A container runtime: its version, or why it does not answer."""

    version: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Bytes of the file system that holds, or would hold, the path. None: it could not be asked."""

    total: int | None
    free: int | None


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    kind: Literal["file", "folder", "none"]
    bytes: int
    config: bool  # a folder with a config.json
    quantized: bool | None = None  # None: not known


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What could start our processes after a reboot, and what with."""

    systemd: bool  # is process 1
    systemctl: bool
    linger: bool  # the user's own units start at boot, not at login
    python: str  # absolute path of the Python that runs our scripts
    path: str  # PATH of an SSH session, that engines are started with


@dataclass(frozen=True, slots=True)
class PortFacts:
    """A port that somebody listens on where we would. Who, is None for another user's process."""

    port: int
    pid: int | None
    name: str | None
    marker: str | None  # DIR/NAME of our own process


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Sizes in bytes. `versions`: of the distributions that the engines' Python has, by distribution name."""

    hostname: str
    kernel: str
    machine: str
    python: str  # of the Python that runs our scripts
    cpus: int
    memory_total: int
    memory_available: int
    shm: int | None
    epoch: float  # the node's clock when it answered
    user: str
    uid: int
    home: str
    interface: str | None  # that holds the node's address
    disks: Mapping[str, DiskFacts] = field(default_factory=dict)
    weights: Mapping[str, WeightsFacts] = field(default_factory=dict)
    ports: tuple[PortFacts, ...] = ()  # of those asked for, the ones in use
    gpus: tuple[GpuFacts, ...] = ()
    gpu_error: str | None = None
    engine_python: str | None = None  # version; None with `engine_error` where it does not run
    engine_error: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    import_error: str | None = None  # of the modules that its Python was asked to import
    envoy: str | None = None
    processes: tuple[ProcessStatus, ...] = ()
    clock_skew_s: float = 0.0  # its clock is at least so far ahead of ours; negative: behind
    shm_free: int | None = None
    gpu_users: tuple[GpuUser, ...] = ()
    nofile: tuple[int, int] | None = None  # soft and hard limit of open files; -1: none
    proxies: tuple[str, ...] = ()  # names of the variables that are set, as HTTPS_PROXY
    no_proxy: str = ""
    binds: bool | None = None  # whether a server can listen on the node's address
    routes: Mapping[str, str | None] = field(default_factory=dict)  # peer → our address on the way; None: no way
    interfaces: Mapping[str, InterfaceFacts] = field(default_factory=dict)
    runtimes: Mapping[str, RuntimeFacts] = field(default_factory=dict)
    images: Mapping[str, bool] = field(default_factory=dict)
    topology: str = ""  # what `nvidia-smi topo -m` prints, if asked to discover
    cuda: str | None = None  # newest CUDA that the driver runs, if asked to discover
    vendor: str = "nvidia"  # of the GPUs
    address: str | None = None  # its own: as asked, else the one that our SSH connection reached
    boot: BootFacts | None = None  # if asked for
    units: tuple[str, ...] = ()  # names of systemd's unit files that may be ours


def facts_request(
    *, python: str | None = None, host: str | None = None, paths: Iterable[str] = (), models: Iterable[str] = (),
    ports: Mapping[int, str] | None = None, folder: str | None = None, peers: Iterable[str] = (),
    runtime: str | None = None, images: Iterable[str] = (), imports: Iterable[str] = (), discover: bool = False,
    boot: bool = False,
) -> str:
    """The script's argument. `python`: of the engines; `host`: the node's own address; `folder`: ours on the node;
    `ports`: each with the address to listen on, "" for all of them; `runtime`: docker or podman;
    `imports`: modules that `python` should have; `discover`: also what only `init` wants to know; `boot`: what could
    start processes after a reboot."""
    asked: dict[str, Any] = {"paths": list(paths), "models": list(models), "ports": dict(ports or {})}
    asked |= {"peers": list(peers), "images": list(images), "imports": list(imports)}
    known = {"python": python, "host": host, "dir": folder, "runtime": runtime, "discover": discover or None}
    known["boot"] = boot or None
    return json.dumps({**asked, **{key: value for key, value in known.items() if value is not None}})


def facts_command(python: str, request: str) -> Argv:
    """To be run with facts_script() on stdin. Exit code 127: the node has no such Python."""
    return (python, "-", request)


@cache
def facts_script() -> str:
    return SCRIPT.read_text(encoding="utf-8")


def parse_facts(text: str) -> NodeFacts:
    """Raises ValueError when the text is no answer of the script."""
    try:
        return _facts(json.loads(text.strip().rpartition("\n")[2]))  # a login shell may have said something before
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not the facts of a node: {error!r}") from None


def _facts(raw: Mapping[str, Any]) -> NodeFacts:
    plain = ("hostname", "kernel", "machine", "python", "cpus", "epoch", "user", "uid", "home", "interface", "envoy")
    engine = raw["engine_python"] or {"version": None, "packages": {}}
    return NodeFacts(
        **{key: raw[key] for key in plain},
        memory_total=raw["memory"]["total"],
        memory_available=raw["memory"]["available"],
        shm=raw["shm_bytes"],
        disks={path: DiskFacts(**disk) for path, disk in raw["disks"].items()},
        weights={path: WeightsFacts(**found) for path, found in raw["models"].items()},
        ports=tuple(PortFacts(**port) for port in raw["ports"]),
        **_gpu_facts(raw),
        gpu_error=raw["gpu_error"],
        engine_python=engine["version"],
        engine_error=raw["engine_error"],
        versions=engine["packages"],
        import_error=raw["import_error"],
        processes=tuple(process_status(status) for status in raw["processes"]),
        shm_free=raw["shm_free"],
        nofile=(raw["nofile"][0], raw["nofile"][1]),
        proxies=tuple(raw["proxies"]),
        no_proxy=raw["no_proxy"],
        binds=raw["binds"],
        routes=raw["routes"],
        interfaces={name: InterfaceFacts(**found) for name, found in raw["interfaces"].items()},
        runtimes={name: RuntimeFacts(**found) for name, found in raw["runtimes"].items()},
        images=raw["images"],
        address=raw["address"],
        boot=BootFacts(**raw["boot"]) if raw["boot"] else None,
        units=tuple(raw["units"]),
    )


def _gpu_facts(raw: Mapping[str, Any]) -> dict[str, Any]:
    tool, text = next(iter(raw["other_gpus"].items()), ("nvidia-smi", raw["gpus"]))
    vendor, parse = GPU_TOOLS[tool]
    return {
        "gpus": parse(text),
        "vendor": vendor,
        "gpu_users": tuple(GpuUser(**user) for user in raw["gpu_users"]),
        "topology": raw["topology"],
        "cuda": parse_cuda(raw["smi"]),
    }
