"""Ray Serve on the lab's hosts from exported files, by the commands that the export prints, and Envoy before it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from tests.lab.engines import ENGINE_ENV, EngineEnv
from tests.lab.fleet import LabFleet

FOLDER = "/opt/llmfleet"
EXPORTED = "ray-serve"  # in the fleet's folder


@dataclass(frozen=True)
class Serve:
    """A Ray cluster with the application, and Envoy before it on the head."""

    fleet: LabFleet
    env: EngineEnv
    told: Mapping[str, Any]  # what the export printed

    @property
    def url(self) -> str:
        return self.fleet.url

    def start(self) -> None:
        for name in self.fleet.lab.hosts:
            self.fleet.lab[name].put_folder(FOLDER, self.fleet.folder / EXPORTED)
        for line in self.told["before"]:
            where, _, command = line.partition(": ")
            if where.startswith("on "):
                self.on(where[3:], command + " --object-store-memory 200000000 --num-cpus 4 --disable-usage-stats")
        for line in self.told["then"]:
            where, _, command = line.partition(": ")
            self.on(where[3:], command, wait="envoy" not in command)

    def on(self, host: str, command: str, *, wait: bool = True) -> str:
        """One of the printed commands, in the Python of the lab's engines."""
        at = self.fleet.lab[host]
        path = f"{self.env.folder}/venv/bin:/usr/bin:/bin:/usr/sbin"
        given = {**ENGINE_ENV, "VLLM_HOST_IP": at.address, "PATH": path}
        words = shlex.join(["env", *(f"{k}={v}" for k, v in given.items()), *shlex.split(command)])
        line = f"exec {words}" if wait else f"setsid {words} >/tmp/router.log 2>&1 &"
        ran = at.exec(["sh", "-c", f"cd /; {line}"], timeout=300)
        assert ran.returncode == 0, f"{host}: {command}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def status(self) -> Any:
        head = self.fleet.plan["head"]
        said = self.on(head, f"python -c {shlex.quote(STATUS)}")
        return json.loads(said.splitlines()[-1])

    def wait(self, kinds: Mapping[str, int], seconds: float = 900) -> None:
        """Until at least so many replicas of each kind run."""
        self._until(lambda running: all(running.get(kind, 0) >= count for kind, count in kinds.items()), seconds)

    def settle(self, kind: str, count: int, seconds: float = 300) -> None:
        """Until exactly so many replicas of a kind run."""
        self._until(lambda running: running.get(kind) == count, seconds)

    def _until(self, settled: Callable[[Mapping[str, int]], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not settled(status := self.status()):
            assert time.monotonic() < deadline, f"{status}\n{self.log()}"
            time.sleep(2)

    def log(self) -> str:
        show = ["sh", "-c", "tail -n 40 /tmp/ray/session_latest/logs/serve/*"]
        return self.fleet.lab[self.fleet.plan["head"]].exec(show).stdout[-6000:]

    def ask(self, path: str, **body: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=120, trust_env=False)


# Replicas that run, by deployment
STATUS = """
import json, logging
import ray
from ray import serve
ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
apps = serve.status().applications.values()
print(json.dumps({n: d.replica_states.get("RUNNING", 0) for a in apps for n, d in a.deployments.items()}))
"""


@contextmanager
def serving(
    fleet: LabFleet, env: EngineEnv, kinds: Mapping[str, int], scaling: Mapping[str, int] | None = None
) -> Iterator[Serve]:
    """The planned fleet, exported and started, until so many replicas of each kind run. `scaling`: what an operator
    changes in each autoscaling_config of the exported file."""
    told = fleet.ok("export", "ray-serve", "--out", EXPORTED, "--json").json
    if scaling:
        path = fleet.folder / EXPORTED / "serve.yaml"
        config = yaml.safe_load(path.read_text())
        for deployment in config["applications"][0]["deployments"]:
            deployment["autoscaling_config"].update(scaling)
        path.write_text(yaml.safe_dump(config))
    made = Serve(fleet, env, told)
    try:
        made.start()
        made.wait(kinds)
        yield made
    finally:
        for host in fleet.lab.hosts.values():
            host.power_cut()  # Ray and what it started, wherever that is
            host.power_on()
