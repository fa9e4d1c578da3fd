"""A fleet all of whose nodes are one machine with a real systemd; the real commands are typed there."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from live_fleet import LiveFleet
from systemd_machine import Machine


@dataclass
class BootedFleet(LiveFleet):
    machine: Machine | None = None

    def command(self, *words: str) -> list[str]:
        assert self.machine is not None
        return self.machine.enter("env", "-C", str(self.folder), *super().command(*words))

    def lives(self) -> dict[str, list[int]]:
        """Of its engines."""
        return {key: pids for key, pids in self.ours().items() if not key.endswith("/router")}

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


def until(condition: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().rpartition("/")[2].strip()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
