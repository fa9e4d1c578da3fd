"""Short prompts beside long ones, with a plan's threshold and without it: `make bench-long`, some three minutes.

One real vLLM on CPU, a small model, with what a plan gives an instance that takes both kinds, but steps of 512 tokens,
so that a long prompt takes four, as one of 30 000 tokens does on a GPU; and with the same, but without
--long-prefill-token-threshold. The same requests go to both at the same moments, in turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from real_engine import World, inventory_text, running_engine
from rehearse_real import asked
from tests.lab.engines import EngineEnv, engine_env

from llmfleet.cli.simulate import decided
from llmfleet.launch.bench.client import Client, address
from llmfleet.launch.bench.load import opened
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.simulate.requests import Stream

SHORT, LONG, ANSWER = 100, 1900, 8
LONG_EVERY = 6
REQUESTS, WARM, RATE = 480, 48, 8.0
ROUNDS = 2
SERVICE = """traffic: {rate: 1, input: {mean: 250, p99: 1900}, output: {mean: 8}}
    long_context: {over: 600, max: 2048}"""
OPTION = "--long-prefill-token-threshold"
STEP = 512
OTHERS = {"--max-num-batched-tokens": f"{STEP}", "--max-num-queued-reqs": "256"}  # nothing is refused


def stream() -> Stream:
    rng = np.random.default_rng(5)
    prompt = np.where(np.arange(REQUESTS) % LONG_EVERY == LONG_EVERY // 2, LONG, SHORT)
    nothing = np.zeros(0, dtype=np.int64)
    return Stream(
        "chat", np.cumsum(rng.exponential(1 / RATE, REQUESTS)), prompt, np.full(REQUESTS, ANSWER), np.arange(REQUESTS),
        np.zeros(REQUESTS + 1, dtype=np.int64), nothing, nothing, nothing,
    )  # fmt: skip


def row(name: str, url: str, requests: Stream) -> str:
    client = Client(address(url))
    made = opened(client, iter(list(asked(requests, client))), requests.arrival.tolist(), lambda _: None)
    samples = sorted(made.samples, key=lambda sample: sample.due)
    if not all(sample.ok for sample in samples):
        raise SystemExit(f"failed: {next(sample.error for sample in samples if not sample.ok)}")
    ttft_ms = 1000 * np.array([sample.ttft_s for sample in samples])[WARM:]
    long = requests.prompt[WARM:] == LONG
    figures = [*np.percentile(ttft_ms[~long], [50, 90, 99]), *np.percentile(ttft_ms[long], [50, 90])]
    return f"| {name} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |"


def one_round(env: EngineEnv, folder: Path) -> None:
    path = folder / "inventory.yaml"
    path.write_text(inventory_text(env, SERVICE))
    world, requests = World(env, folder, parse(path.read_text()), decided(path)[1]), stream()
    planned = world.plan.instances[0]
    part = STEP * planned.long_prefill_token_threshold // planned.max_num_batched_tokens
    for name, threshold in ((f"{part} tokens", part), ("none", 0)):
        with running_engine(world, {**OTHERS, OPTION: f"{threshold}"}) as url:
            print(row(name, url, requests), flush=True)


def main() -> None:
    env = engine_env(lambda text: print(text, file=sys.stderr, flush=True))
    print(f"\n{REQUESTS} requests at {RATE:g}/s, {SHORT} tokens, one in {LONG_EVERY} of {LONG}; TTFT in ms\n")
    print("| threshold | short p50 | p90 | p99 | long p50 | p90 |\n|---|---|---|---|---|---|")
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="lf") as name:
            one_round(env, Path(name))
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
