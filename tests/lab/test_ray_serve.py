"""`llmfleet export ray-serve` on several hosts: the exported files, by the commands that the export prints."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.lab.engines import ENGINE_ENV, EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import chat, embed, inventory_yaml, rerank
from tests.lab.lab import Lab
from tests.lab.load import Load

pytestmark = [pytest.mark.lab, pytest.mark.long]

FOLDER = "/opt/llmfleet"
FAST, SLOW = "chat-h1", "chat-h2"  # two kinds of instance of one service
PASSAGES = ["The office opens at nine.", "Licensed works may be redistributed with their notice.", "Cats sleep a lot."]


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
            self.fleet.lab[name].put_folder(FOLDER, self.fleet.folder / "ray-serve")
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
        """Until so many replicas of each kind run."""
        deadline = time.monotonic() + seconds
        while not all(self.status().get(kind, 0) >= count for kind, count in kinds.items()):
            assert time.monotonic() < deadline, f"{self.status()}\n{self.log()}"
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


@pytest.fixture(scope="module")
def served(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    fleet = LabFleet(lab, tmp_path_factory.mktemp("serve"))
    real = {"model": str(engine_env.embed), "path": str(engine_env.embed)}  # ranks by similarity; the other is random
    services = [chat(engine_env, ["h1"], ["h2"]), embed(engine_env, ["h3"]), rerank(engine_env, ["h3"]) | real]
    gpus = {"h2": "1 x CPU-3G", "h3": "2 x CPU-2G", "h4": None, "h5": None}
    fleet.write(inventory_yaml(lab, engine_env, services, gpus=gpus))
    fleet.ok("plan")
    told = fleet.ok("export", "ray-serve", "--out", "ray-serve", "--json").json
    made = Serve(fleet, engine_env, told)
    try:
        made.start()
        made.wait({FAST: 1, SLOW: 1, "embed-h3": 1, "rerank-h3": 1})
        yield made
    finally:
        for host in lab.hosts.values():
            host.power_cut()  # Ray and what it started, wherever that is
            host.power_on()


def test_requests_of_every_kind_are_answered(served: Serve) -> None:
    said = served.ask("/v1/chat/completions", model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    assert said.status_code == 200, said.text
    said = served.ask("/v1/embeddings", model="embed", input=["a cat sits", "a kitten rests"])
    assert said.status_code == 200 and len(said.json()["data"]) == 2, said.text
    said = served.ask("/v1/rerank", model="rerank", query="a cat", documents=["a kitten", "a stock market"])
    assert said.status_code == 200 and len(said.json()["results"]) == 2, said.text


def test_both_kinds_of_the_service_answer(served: Serve) -> None:
    seen = set()
    for n in range(40):
        said = served.ask(
            "/v1/chat/completions", model="chat", messages=[{"role": "user", "content": f"Clause {n}"}], max_tokens=2
        )
        seen.add(said.headers["x-llmfleet-instance"])
    assert seen == {FAST, SLOW}


def test_the_chain_answers_with_the_right_passage_first(served: Serve) -> None:
    question = "May licensed works be redistributed?"
    said = served.ask("/v1/rag", model="chat", question=question, documents=PASSAGES, max_tokens=4)
    assert said.status_code == 200, said.text
    assert said.json()["passages"][0]["index"] == 1
    assert said.json()["choices"]


def test_a_replica_that_dies_loses_no_request(served: Serve) -> None:
    with Load(served.url, "chat", clients=4) as load:
        load.wait_for(8, seconds=120)
        kill_engine(served, "h1")
        load.wait_for(8, seconds=120)
        served.wait({FAST: 1})
        load.wait_for(8, seconds=120)
    load.stop()
    assert not [r for r in load.failed if not r.streaming], load.summary()


def kill_engine(served: Serve, host: str) -> None:
    """The process of the engine's own, below its replica."""
    named = [p for p in served.fleet.lab[host].processes() if p.argv and "EngineCore" in " ".join(p.argv)]
    assert named, [p.argv for p in served.fleet.lab[host].processes()]
    for process in named:
        served.fleet.lab[host].exec(["kill", "-9", str(process.pid)])
