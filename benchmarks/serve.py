"""The same engine behind the default path and behind Ray Serve: `make bench-serve`, some ten minutes.

One vLLM on CPU from the lab's environment (`make lab` builds it), with the plan's arguments in both worlds, and the
same requests: closed loop, streamed. Each world is started as often as there are rounds, in turn, since others' load on
the machine comes and goes. Serve takes the ports 6379 and 8000, and `ray stop` at the end stops any Ray of this
machine: not for one where Ray does other work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from real_engine import HERE, START_WITHIN_S, World, answers, inventory_text, running_engine
from running import KEY, Router, Running, until
from tests.lab.engines import EngineEnv, engine_env

from llmfleet.launch.bench.client import Client, address
from llmfleet.launch.bench.figures import Figures, Limits, figures
from llmfleet.launch.bench.load import closed
from llmfleet.launch.export.ray_serve import GCS_PORT, ray_serve
from llmfleet.launch.export.serve_app import HTTP_PORT
from llmfleet.launch.models.services import service_models
from llmfleet.launch.router.process import envoy_command
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.make import make_plan

USERS, WARM, MEASURED, TOKENS = 4, 16, 160, 16


def world_of(env: EngineEnv, folder: Path) -> World:
    inventory = parse(inventory_text(env))
    return World(env, folder, inventory, make_plan(inventory, service_models(inventory, folder / "inventory.yaml")))


# --- the two paths ----------------------------------------------------------------------------------------------------


@contextmanager
def default_path(world: World) -> Iterator[Mapping[str, tuple[str, str]]]:
    """Address and path by what is asked: the engine itself, and our router."""
    router = Router(world.folder / "router", world.plan, hosts={world.inventory.nodes[0].name: HERE}).process
    try:
        with running_engine(world) as engine:
            yield {
                "the engine alone": (engine, "/v1/chat/completions"),
                "llmfleet up: Envoy → engine": (f"http://{HERE}:{router.port}", "/v1/chat/completions"),
            }
    finally:
        router.stop()


@contextmanager
def serve_path(world: World) -> Iterator[Mapping[str, tuple[str, str]]]:
    """The exported files, by the commands that the export prints."""
    home = world.folder / "serve"
    export = ray_serve(world.inventory, world.plan, folder=str(home))
    for name, text in export.files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    env = {**os.environ, **world.variables}
    start = next(line.partition(": ")[2] for line in export.before if "ray start" in line)
    small = f"--temp-dir {world.folder}/ray --num-cpus 4 --object-store-memory 200000000 --disable-usage-stats"
    with (world.folder / "serve.log").open("ab") as log:
        try:
            subprocess.run(f"{start} {small}", shell=True, env=env, stdout=log, stderr=log, check=True)  # noqa: S602
            deploy = ("serve", "run", "--non-blocking", "--address", f"{HERE}:{GCS_PORT}", str(home / "serve.yaml"))
            subprocess.run(deploy, env=env, stdout=log, stderr=log, check=True, timeout=START_WITHIN_S)
            command = envoy_command(str(home / "router"), "envoy", concurrency=1)
            router, serve = Running(command, world.plan.router.port, env=env), f"http://{HERE}:{HTTP_PORT}"
            try:
                until(lambda: answers(f"{serve}/chat-n1/health"), "Serve, see serve.log", START_WITHIN_S)
                yield {
                    "Ray Serve alone": (serve, "/chat-n1/v1/chat/completions"),
                    "Ray Serve: Envoy → Serve → engine": (f"http://{HERE}:{router.port}", "/v1/chat/completions"),
                }
            finally:
                router.stop()
        finally:
            subprocess.run(("ray", "stop", "--force"), env=env, stdout=log, stderr=log, check=False)


# --- the table --------------------------------------------------------------------------------------------------------


def measured(url: str, path: str) -> Figures:
    client = Client(address(url), {"authorization": f"Bearer {KEY}"})
    bodies = [
        {
            "model": "chat",
            "messages": [{"role": "user", "content": f"Question {n}: what does the licence say?"}],
            "max_tokens": TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for n in range(64)
    ]
    requests = cycle([client.request(path, json.dumps(body).encode()) for body in bodies])
    closed(client, requests, USERS, WARM, lambda _: None)
    return figures(closed(client, requests, USERS, MEASURED, lambda _: None), Limits())


def row(name: str, got: Figures, base: Figures) -> str:
    added = got.ttft_ms["mean"] - base.ttft_ms["mean"]
    ratio = got.requests_per_s / base.requests_per_s
    return (
        f"| {name} | {got.requests_per_s:.1f} | {ratio:.2f} × | {got.ttft_ms['mean']:.0f} ms | {added:+.0f} ms | "
        f"{got.ttft_ms['p95']:.0f} ms | {got.tpot_ms['mean']:.1f} ms | {sum(got.errors.values())} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    env = engine_env(lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{USERS} users in a closed loop, {TOKENS} tokens an answer, streamed\n")
    print("| path | requests/s | of the engine's | mean TTFT | added | p95 | mean TPOT | failed |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for _ in range(rounds):
        base: Figures | None = None
        for path in (default_path, serve_path):
            with tempfile.TemporaryDirectory(prefix="lf") as name, path(world_of(env, Path(name))) as ways:
                for title, (url, where) in ways.items():
                    got = measured(url, where)
                    base = base or got
                    print(row(title, got, base), flush=True)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
