"""What the tests of the remote scripts share: a node's folder on this machine, with engine doubles in it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmfleet.launch.nodes.probe import NodeProbe, parse_probe
from llmfleet.launch.nodes.process import Process

REMOTE = Path(__file__).parents[3] / "launch" / "remote"
DOUBLE = Path(__file__).with_name("engine_double.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The condition's first true value; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def marked(value: str) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"LLMFLEET_PROCESS={value}\0".encode() in (entry / "environ").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


class Node:
    """A node's folder on this machine, and the supervisor's command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rundir(self, name: str = "chat") -> Path:
        return self.folder / "run" / name

    def spec(self, *arguments: str, name: str = "chat", argv: tuple[str, ...] = (), **settings: Any) -> Process:
        """An engine double on a free port. Its spec is written."""
        port = free_port()
        process = Process(
            name=name,
            node="n1",
            kind="engine",
            argv=argv or (sys.executable, str(DOUBLE), "--port", str(port), *arguments),
            **{"health_url": f"http://127.0.0.1:{port}/health", "stop_grace_s": 5.0, "hang_after_s": 3.0} | settings,
        )
        self.rundir(name).mkdir(parents=True, exist_ok=True)
        (self.rundir(name) / "spec.json").write_text(json.dumps(process.spec()))
        return process

    def supervise(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(REMOTE / "supervise.py"), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def start(self, name: str = "chat") -> dict[str, Any]:
        done = self.supervise("start", str(self.rundir(name)))
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def stop(self, name: str = "chat", *arguments: str) -> dict[str, Any]:
        done = self.supervise("stop", str(self.rundir(name)), *arguments)
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def status(self, name: str = "chat") -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.supervise("status", str(self.rundir(name))).stdout)[0]
        return status

    def comes(self, state: str, name: str = "chat", **also: Any) -> dict[str, Any]:
        """Waits for a state in status.json (cheaper to read than to ask for)."""

        def reached() -> dict[str, Any] | None:
            found: dict[str, Any] = json.loads((self.rundir(name) / "status.json").read_text())
            return found if found["state"] == state and all(found[k] == v for k, v in also.items()) else None

        status: dict[str, Any] = until(reached)
        return status

    def log(self, name: str = "chat") -> str:
        return (self.rundir(name) / "log").read_text()

    def marked(self, name: str = "chat") -> set[int]:
        return marked(str(self.folder / name))


def probe(node: Node) -> NodeProbe:
    argv = (sys.executable, str(REMOTE / "probe.py"), str(node.folder))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return parse_probe(done.stdout)
