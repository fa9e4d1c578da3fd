"""A process that llmfleet keeps running on a node, as data. launch/remote/supervisor.py runs it and restarts it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmfleet.launch.transport.base import Argv

Kind = Literal["engine", "ray-head", "ray-worker", "rank", "router", "application"]
# What engines over several nodes run on, beside the engine on their first node: it is there before and after them.
MEMBERS = ("ray-head", "ray-worker", "rank")
# Of no use by itself on a node that has just booted.
TOGETHER = (*MEMBERS, "application")


@dataclass(frozen=True, slots=True)
class Process:
    """`name` is unique on its node and is the name of its folder there."""

    name: str
    node: str
    kind: Kind
    argv: Argv
    env: Mapping[str, str] = field(default_factory=dict)
    health_url: str | None = None  # answers 200 when the process can work
    stop_grace_s: float = 30.0  # between SIGTERM and SIGKILL
    hang_after_s: float = 30.0  # no answer for so long once it was healthy: it hangs, and is killed
    start_within_s: float = 1800.0  # no first healthy answer for so long means the start failed
    restart: bool = True
    env_files: Mapping[str, str] = field(default_factory=dict)  # variable → file on the node that holds its value
    unit: str = ""  # of systemd, whose main process its supervisor is; see launch/units/service.py
    at_boot: bool = False  # whether that is started at boot
    cleanup: Argv = ()  # takes away what no signal reaches, before each life and after: a container

    def spec(self) -> dict[str, Any]:
        """What the supervisor reads, as JSON."""
        body = asdict(self)
        body["argv"] = list(self.argv)
        body["env"] = dict(self.env)
        body["cleanup"] = list(self.cleanup)
        for key in ("cleanup", "env_files", "unit", "at_boot"):  # only where used: what runs without is not changed
            if not body[key]:
                del body[key]
        return body

    @property
    def digest(self) -> str:
        """Changes when anything that matters to the running process changes."""
        return hashlib.sha256(json.dumps(self.spec(), sort_keys=True).encode()).hexdigest()[:12]
