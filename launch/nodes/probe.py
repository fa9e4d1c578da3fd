"""How our processes on a node are: the answers of launch/remote/supervise.py and probe.py as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

ProcessState = Literal["starting", "healthy", "unhealthy", "stopping", "exited", "failed"]
STATES = ("starting", "healthy", "unhealthy", "stopping", "exited", "failed")


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What a supervisor says. Times are the node's own, in seconds since the epoch."""

    name: str
    state: ProcessState
    kind: str | None = None
    digest: str | None = None  # of the Process it was started from
    pid: int | None = None
    supervisor_pid: int | None = None
    started_at: float | None = None
    healthy_since: float | None = None
    restarts: int = 0
    last_exit: int | None = None  # negative: the signal that ended it
    last_error: str | None = None
    at_boot: bool | None = None  # whether systemd starts it at boot; None: it does not keep it

    @property
    def alive(self) -> bool:
        """Whether a supervisor takes care of it, also between two of its lives."""
        return self.state not in ("exited", "failed")

    @property
    def reason(self) -> str:
        """Why it is not healthy, in words; empty where there is nothing to say."""
        if self.state == "healthy":
            return ""
        if self.last_error:
            return self.last_error
        return f"it ended with exit code {self.last_exit}" if self.last_exit is not None and self.pid is None else ""


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """What an engine says of itself. None: it does not say. `kv_usage` and `prefix_hit_rate` are 0..1."""

    healthy: bool = False
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    prefix_hit_rate: float | None = None  # of prompt tokens, since it started
    kv_blocks: int | None = None
    kv_block_size: int | None = None
    kv_tokens: int | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """What the driver says of a GPU right now. None: it does not say."""

    index: int
    use_percent: int | None = None  # of the last second, that any kernel ran
    used_mib: int | None = None
    total_mib: int | None = None

    @property
    def use(self) -> float | None:
        return None if self.use_percent is None else self.use_percent / 100

    @property
    def memory(self) -> float | None:
        return self.used_mib / self.total_mib if self.used_mib is not None and self.total_mib else None


@dataclass(frozen=True, slots=True)
class NodeProbe:
    """Both by process name. Only engines that live were asked."""

    processes: Mapping[str, ProcessStatus] = field(default_factory=dict)
    engines: Mapping[str, EngineMetrics] = field(default_factory=dict)
    gpus: tuple[GpuLoad, ...] = ()


WHOLE = ("running", "waiting", "prompt_tokens", "generated_tokens")


def parse_statuses(text: str) -> tuple[ProcessStatus, ...]:
    """What `supervise.py status` prints. Raises ValueError."""
    raw = _last_line(text)
    if not isinstance(raw, list):
        raise ValueError("not a list of process states")
    return tuple(process_status(status) for status in raw)


def parse_probe(text: str) -> NodeProbe:
    """What probe.py prints. Raises ValueError."""
    raw = _last_line(text)
    try:
        statuses = [process_status(status) for status in raw["processes"]]
        engines = {name: engine_metrics(metrics) for name, metrics in raw["engines"].items()}
        gpus = tuple(GpuLoad(**_known(GpuLoad, gpu)) for gpu in raw.get("gpus", ()))  # older scripts do not say
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a probe of a node: {error!r}") from None
    return NodeProbe({s.name: s for s in statuses}, engines, gpus)


def process_status(raw: Mapping[str, Any]) -> ProcessStatus:
    """Keys of later versions are passed over. Raises ValueError."""
    if not isinstance(raw, Mapping) or raw.get("state") not in STATES or not isinstance(raw.get("name"), str):
        raise ValueError(f"not the state of a process: {raw!r}"[:200])
    return ProcessStatus(**_known(ProcessStatus, raw))


def engine_metrics(raw: Mapping[str, Any]) -> EngineMetrics:
    known = _known(EngineMetrics, raw)
    whole: dict[str, Any] = {k: int(known[k]) for k in WHOLE if known.get(k) is not None}
    return EngineMetrics(**{**known, **whole})


def _known(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {key: value for key, value in raw.items() if key in names}


def _last_line(text: str) -> Any:
    """A login shell may have said something before."""
    return json.loads(text.strip().rpartition("\n")[2])
