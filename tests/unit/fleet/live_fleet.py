"""A fleet on the loopback address, driven by the real commands: real supervisors, a real Envoy, doubles of engines.

Nodes are folders of this machine, reached without SSH.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LLMFLEET = Path(sys.executable).with_name("llmfleet")
DOUBLE = Path(__file__).with_name("llama_double.py")
SUPERVISE = Path(__file__).parents[3] / "launch/remote/supervise.py"
KILLED_UP = Path(__file__).with_name("killed_up.py")
MARKER = b"LLMFLEET_PROCESS="
CLUSTER = "loop"
_next_port = iter(range(20000 + os.getpid() % 400 * 20, 32000, 20))


def free_ports(count: int = 16) -> int:
    """The first of so many in a row that nobody listens on, below what the system hands out by itself."""
    for first in _next_port:
        if all(_is_free(first + n) for n in range(count)):
            return first
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def gguf() -> bytes:
    """The header of a small model, which is all that the planner reads and more than the doubles do."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    facts = {
        "block_count": 2, "embedding_length": 64, "feed_forward_length": 128, "context_length": 8192,
        "attention.head_count": 4, "attention.head_count_kv": 2,
    }  # fmt: skip
    tensors = {"token_embd.weight": (64, 3), "blk.0.attn_q.weight": (64, 64), "blk.1.attn_q.weight": (64, 64)}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts) + 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c")
    head += b"".join(text(f"llama.{key}") + struct.pack("<II", 4, number) for key, number in facts.items())
    return head + b"".join(
        text(name) + struct.pack("<I2QIQ", 2, *shape, 8, 0) for name, shape in tensors.items()
    )


@dataclass(frozen=True)
class Ran:
    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def steps(self) -> list[tuple[str, str]]:
        return [(s["node"], s["title"]) for s in self.json["changed"]]

    def __str__(self) -> str:
        return f"llmfleet {' '.join(self.words)} exited with {self.code}\n{self.out}\n{self.err}"


@dataclass
class LiveFleet:
    folder: Path
    nodes: Sequence[str] = ("n1", "n2", "n3")
    ports: int = field(default_factory=free_ports)
    env: dict[str, str] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "weights").mkdir(parents=True, exist_ok=True)
        (self.folder / "weights" / "m.gguf").write_bytes(gguf())
        server = self.folder / "llama-server"
        server.write_text(f'#!/bin/sh\nexec {sys.executable} {DOUBLE} "$@"\n')
        server.chmod(0o755)
        self.write()

    def write(self, homes: Sequence[str] | None = None, **service: Any) -> None:
        """The inventory with an instance on each of `homes`, and the plan of it."""
        body = {
            "cluster": CLUSTER,
            "access": {"transport": "local"},
            "runtime": {
                "python": sys.executable, "llama_server": str(self.folder / "llama-server"), **self.runtime
            },
            "nodes": [
                {"name": "front", "host": "127.0.0.1", "runtime": {"dir": str(self.folder / "nodes/front")}},
                *(
                    {
                        "name": name, "host": f"127.0.0.{number}", "gpus": "1 x CPU-2G",
                        "runtime": {"dir": str(self.folder / f"nodes/{name}")},
                    }
                    for number, name in enumerate(self.nodes, start=2)
                ),
            ],
            "services": [
                {
                    "name": "story", "model": str(self.folder / "weights/m.gguf"),
                    "engine": "llama.cpp", "precision": ["q8_0"],
                    "path": str(self.folder / "weights/m.gguf"), "context": 1024, "max_concurrency": 8,
                    "placement": [{"nodes": [n]} for n in (self.nodes if homes is None else homes)], **service,
                }
            ],
            "router": {"port": self.ports, "admin_port": self.ports + 1},
            "engine_port": self.ports + 2,
        }  # fmt: skip
        (self.folder / "inventory.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
        self.ok("plan")

    def command(self, *words: str) -> list[str]:
        return [str(LLMFLEET), *words]

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, text=True, env={**os.environ, **self.env, **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str, timeout: float = 120, **env: str) -> Ran:
        with self.start(*words, **env) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"{words} took over {timeout:g} s\n{out}\n{err}") from None
        return Ran(words, process.returncode, out, err)

    def ok(self, *words: str, **env: str) -> Ran:
        ran = self.run(*words, **env)
        assert ran.code == 0, str(ran)
        return ran

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports}"

    @property
    def state_file(self) -> Path:
        return self.folder / ".llmfleet/state.json"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state_file.read_text())
        return found

    @property
    def plan(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / ".llmfleet/plan.json").read_text())
        return found

    def sign(self, instance: str, how: str) -> Path:
        """The file that tells an instance's double how to misbehave, see llama_double.py."""
        found = next(i for i in self.plan["instances"] if i["id"] == instance)
        address = f"127.0.0.{2 + list(self.nodes).index(found['nodes'][0])}"
        return self.folder / "weights" / f"{address}:{found['port']}.{how}"

    def node_folder(self, node: str) -> Path:
        return self.folder / "nodes" / node / CLUSTER / node

    def ours(self) -> dict[str, list[int]]:
        """Processes that were started for this fleet, by node/name."""
        found: dict[str, list[int]] = {}
        for pid, marker in _marked():
            if marker.startswith(f"{self.folder}/nodes/"):
                node, name = marker.rsplit("/", 2)[1:]
                found.setdefault(f"{node}/{name}", []).append(pid)
        return found

    def engines(self) -> dict[str, str]:
        """Command line of the one process of each engine, by node/name. Fails where one runs twice."""
        found = {}
        for key, pids in self.ours().items():
            if not key.endswith("/router"):
                assert len(pids) == 1, f"{key} runs {len(pids)} times"
                found[key] = Path(f"/proc/{pids[0]}/cmdline").read_text().replace("\0", " ")
        return found

    def begun(self) -> dict[str, int]:
        """How often each engine was begun since the last `up` from nothing, by its log."""
        logs = self.folder.glob("nodes/*/*/*/run/*/log")
        return {f"{p.parts[-4]}/{p.parts[-2]}": p.read_text().count("double begins") for p in logs}

    def killed_up(self, kind: str, number: int) -> int:
        """Exit code of an `up` that is killed at an event, see killed_up.py; negative: the signal."""
        argv = [sys.executable, str(KILLED_UP), str(self.folder / "inventory.yaml"), kind, str(number)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    def close(self) -> None:
        """Everything down; by force where `down` does not do it."""
        ran = self.run("down", "--yes")
        for folder in self.folder.glob(f"nodes/*/{CLUSTER}/*"):
            subprocess.run([sys.executable, str(SUPERVISE), "sweep", str(folder)], check=True, capture_output=True)
        assert ran.code in (0, 1), str(ran)


def _marked() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                words = (entry / "environ").read_bytes().split(b"\0")
                marker = next((w for w in words if w.startswith(MARKER)), None)
                if marker is not None:
                    yield int(entry.name), marker.removeprefix(MARKER).decode()
        except OSError:
            continue
