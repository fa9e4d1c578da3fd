"""A fleet of the lab, driven as a person drives it: through the `llmfleet` command, in a folder with an inventory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.hosts import HostProcess
from tests.lab.lab import Lab

LLMFLEET = Path(sys.executable).with_name("llmfleet")
MARKER = "LLMFLEET_PROCESS"


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"llmfleet {' '.join(self.words)} exited with {self.code}\n{self.out}\n{self.err}"


@dataclass(frozen=True)
class LabFleet:
    lab: Lab
    folder: Path

    def write(self, inventory: str) -> None:
        (self.folder / "inventory.yaml").write_text(inventory)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(LLMFLEET), *words], cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str, timeout: float = 600) -> Ran:
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{' '.join(words)} took over {timeout:g} s\n{out}\n{err}") from None
        return Ran(words, process.returncode, out, err)

    def ok(self, *words: str, timeout: float = 600) -> Ran:
        ran = self.run(*words, timeout=timeout)
        assert ran.code == 0, str(ran)
        return ran

    @property
    def plan(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.folder / ".llmfleet/plan.json").read_text())
        return found

    @property
    def state(self) -> Mapping[str, Any]:
        path = self.folder / ".llmfleet/state.json"
        found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {"processes": {}}
        return found

    @property
    def url(self) -> str:
        router = self.plan["router"]
        return f"http://{self.lab[router['node']].address}:{router['port']}"

    def ours(self, host: str) -> list[HostProcess]:
        """Processes on a host that llmfleet started, by the marker in their environment."""
        return [p for p in self.lab[host].processes() if MARKER in p.environ]

    def engines(self, host: str) -> list[str]:
        """Names of the engines whose first process runs on the host; twice if it runs twice."""
        return sorted(
            p.environ[MARKER].rpartition("/")[2]
            for p in self.ours(host)
            if "--served-model-name" in p.argv and "vllm" in " ".join(p.argv)
        )

    def wait_until_planned(self, seconds: float = 300) -> None:
        """Until `status` finds nothing wrong."""
        deadline = time.monotonic() + seconds
        while (ran := self.run("status")).code:
            assert time.monotonic() < deadline, str(ran)
            time.sleep(2)

    def states(self) -> dict[str, str]:
        return {i["id"]: i["state"] for i in self.run("status", "--json").json["instances"]}
