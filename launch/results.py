"""What the operations answer, as values that the CLI prints and `--json` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmfleet.launch.nodes.probe import GpuLoad

NodeState = Literal["ready", "degraded", "drained", "unreachable"]
InstanceState = Literal["starting", "healthy", "unhealthy", "draining", "stopped"]


@dataclass(frozen=True, slots=True)
class ChangedStep:
    phase: str
    node: str
    title: str


@dataclass(frozen=True, slots=True)
class UpReport:
    """`changed` lists what was done; in a dry run, what would be done."""

    changed: tuple[ChangedStep, ...]
    dry_run: bool
    seconds: float
    address: str  # the router's base URL
    skipped_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    host: str
    state: NodeState
    instances: tuple[str, ...]
    reason: str = ""
    accelerators: str = ""  # as the inventory has them
    gpus: tuple[GpuLoad, ...] = ()  # as the driver has them now; NVIDIA's only


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    id: str
    service: str
    nodes: tuple[str, ...]
    gpus: Mapping[str, tuple[int, ...]]
    state: InstanceState
    address: str
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    prefix_hit_rate: float | None = None
    kv_tokens: int | None = None
    prompt_tokens: int | None = None  # since it started, as the next
    generated_tokens: int | None = None
    restarts: int = 0
    reason: str = ""
    wanted: bool = True  # false where nothing needs it to run now: Ray Serve scales with the load


@dataclass(frozen=True, slots=True)
class RouterStatus:
    node: str
    address: str
    state: Literal["healthy", "unhealthy", "stopped", "unreachable"]
    requests: Mapping[str, int] = field(default_factory=dict)  # by instance, since the router started
    active: Mapping[str, int] = field(default_factory=dict)
    reached: tuple[str, ...] = ()  # instances that pass its own health checks
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RayStatus:
    """Nodes of the Ray cluster that carries instances over several nodes."""

    head: str
    nodes: tuple[str, ...]
    state: Literal["healthy", "unhealthy", "stopped"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """`ok` is what the exit code says: all as planned, drained nodes aside."""

    cluster: str
    plan_hash: str
    ok: bool
    nodes: tuple[NodeStatus, ...]
    instances: tuple[InstanceStatus, ...]
    router: RouterStatus
    ray: RayStatus | None = None
    problems: tuple[str, ...] = ()
    routers: tuple[RouterStatus, ...] = ()  # each; `router` is the first, with the requests of all
    served: tuple[str, ...] = ()  # nodes that the head reaches, whether we do or not: see launch/status.py

    @property
    def unreachable(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.nodes if n.state == "unreachable")


@dataclass(frozen=True, slots=True)
class CapacityLeft:
    """What a service has left while a node is out: instances and the share of the planned capacity."""

    service: str
    instances_left: int
    instances_total: int
    share: float


@dataclass(frozen=True, slots=True)
class DrainReport:
    node: str
    instances: tuple[str, ...]
    left: tuple[CapacityLeft, ...]
    seconds: float
    changed: bool = True
    unreachable: tuple[str, ...] = ()  # nodes on which nothing could be stopped


@dataclass(frozen=True, slots=True)
class DownReport:
    stopped: tuple[ChangedStep, ...]
    unreachable: tuple[str, ...]
    seconds: float
    dry_run: bool = False
