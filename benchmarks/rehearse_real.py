"""A rehearsal beside the engine that it simulates: `make bench-rehearse`, some five minutes.

One real vLLM on CPU, a small model. `llmfleet bench` measures it: a few users first, which tells what it can, then a
part of that at random times, before and after other requests of the kind go to it. Its calibration.yaml has both, since
a machine that does other work is not as fast at one time as at another. The plan is made again with that, and the same
other requests, at the same moments, go to a rehearsal of it. Both have the same number of KV blocks, fewer than the
documents need. Real prompts are token numbers, so that their lengths and what they share are exact.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from real_engine import World, inventory_text, running_engine
from tests.lab.engines import EngineEnv, engine_env

from llmfleet.cli.simulate import decided
from llmfleet.launch.bench.calibrate import measurement, write_calibration
from llmfleet.launch.bench.client import Client, address
from llmfleet.launch.bench.figures import Figures, Limits, figures
from llmfleet.launch.bench.load import opened
from llmfleet.launch.bench.measure import Bench, Load, Target
from llmfleet.launch.bench.measure import Plan as BenchPlan
from llmfleet.launch.bench.prompts import Shape
from llmfleet.launch.rehearse.rehearse import rehearse
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.simulate.fleet import Fleet, fleet_of
from llmfleet.planner.simulate.requests import Stream
from llmfleet.planner.simulate.simulate import Scenario, streams_of

INPUT, INPUT_P99, OUTPUT, OUTPUT_P99, SHARED, DOCUMENTS = 700, 1200, 48, 80, 0.6, 12
BLOCKS = 60  # of 128 tokens; the documents alone are 12 × 4
VOCABULARY = range(10, 1000)
TRAFFIC = "traffic: {{rate: {rate}, input: {{mean: %d, p99: %d}}, output: {{mean: %d, p99: %d}}, shared_prefix: %g}}"


def world_of(env: EngineEnv, folder: Path, rate: float) -> tuple[World, Path]:
    path = folder / "inventory.yaml"
    traffic = (TRAFFIC % (INPUT, INPUT_P99, OUTPUT, OUTPUT_P99, SHARED)).format(rate=rate)
    path.write_text(inventory_text(env, traffic))
    _, plan = decided(path)
    return World(env, folder, parse(path.read_text()), plan), path


def with_blocks(fleet: Fleet, blocks: int) -> Fleet:
    return replace(fleet, engines=tuple(replace(engine, blocks=blocks - 1) for engine in fleet.engines))


def bench_of(url: str) -> Bench:
    shape = Shape(INPUT, INPUT_P99, OUTPUT, OUTPUT_P99, SHARED, DOCUMENTS, 2048)
    target = Target("chat-n1-0", address(url), "chat", "generate")
    bench = Bench(target, BenchPlan(shape, Limits(), requests=120, warm=12), lambda *_: None)
    bench.look()
    return bench


def stream_of(path: Path, scenario: Scenario) -> Stream:
    decision, plan = decided(path)
    (stream,) = streams_of(with_blocks(fleet_of(decision, plan), BLOCKS), decision.demands, scenario)
    return stream


def asked(stream: Stream, client: Client) -> Iterator[bytes]:
    """The stream's requests as numbers of tokens: a segment is always the same, the rest is the request's own."""
    for at in range(len(stream.arrival)):
        numbers = stream.segments[stream.first[at] : stream.first[at + 1]].tolist()
        prompt = [token for n in numbers for token in tokens_of(f"segment {n}", int(stream.tokens[n]))]
        prompt += tokens_of(f"request {at}", int(stream.prompt[at]) - len(prompt))
        body = {"model": "chat", "prompt": prompt, "max_tokens": int(stream.answer[at]), "ignore_eos": True}
        text = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
        yield client.request("/v1/completions", text.encode())


def tokens_of(name: str, count: int) -> list[int]:
    return random.Random(name).choices(VOCABULARY, k=count)  # noqa: S311


def replayed(url: str, stream: Stream, warm: float) -> Figures:
    client = Client(address(url))
    requests = list(asked(stream, client))
    run = opened(client, iter(requests), stream.arrival.tolist(), lambda _: None)
    samples = sorted(run.samples, key=lambda sample: sample.due)
    return figures(replace(run, samples=samples[int(len(samples) * warm) :]), Limits())


def row(name: str, real: float, simulated: float, *, percent: bool = True) -> str:
    apart = f"{simulated / real - 1:+.0%}" if percent else f"{simulated - real:+.3f}"
    return f"| {name} | {real:.3g} | {simulated:.3g} | {apart} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=3, help="while it is calibrated")
    parser.add_argument("--part", type=float, default=0.7, help="of the requests a second that these users got")
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=1)
    asked_for = parser.parse_args()
    env = engine_env(lambda text: print(text, file=sys.stderr, flush=True))
    for _ in range(asked_for.rounds):
        with tempfile.TemporaryDirectory(prefix="lf") as name:
            one_round(env, Path(name), asked_for.users, asked_for.part, asked_for.requests)


def one_round(env: EngineEnv, folder: Path, users: int, part: float, requests: int) -> None:
    world, path = world_of(env, folder, rate=1.0)
    limits = {"--num-gpu-blocks-override": str(BLOCKS), "--enable-prompt-tokens-details": ""}
    with running_engine(world, limits) as url:
        bench = bench_of(url)
        most = bench.measure(Load(users=users)).figures.requests_per_s
        rate = round(most * part, 3)
        path.write_text(path.read_text().replace("rate: 1.0", f"rate: {rate}"))
        scenario = Scenario(requests, documents=DOCUMENTS)
        before = bench.measure(Load(rate=rate)).figures
        real = replayed(url, stream_of(path, scenario), scenario.warm)
        after = bench.measure(Load(rate=rate)).figures
    points = [measurement(world.inventory, world.plan.instances[0], got) for got in (before, after)]
    write_calibration(path.with_name("calibration.yaml"), points)
    decision, plan = decided(path)
    fleet = with_blocks(fleet_of(decision, plan), BLOCKS)
    done = rehearse(
        plan, fleet, decision.demands, scenario, (), speed=1.0, say=lambda _: None, progress=lambda *_: None
    )
    (mine,) = done.report.services
    for when, got in (("before", before), ("after", after)):
        ttft, tpot = got.ttft_ms["p50"], got.tpot_ms["p50"]
        hits = got.prefix_hit_rate
        print(f"\nBench {when}, {rate:.2f}/s: TTFT p50 {ttft:.0f} ms, TPOT p50 {tpot:.1f} ms, hits {hits}")
    print(f"\n{requests} other requests at that rate:\n")
    print("| | vLLM | rehearsed | |\n|---|---|---|---|")
    print(row("TTFT p50, ms", real.ttft_ms["p50"], mine.ttft_ms["p50"]))
    print(row("TPOT p50, ms", real.tpot_ms["p50"], mine.tpot_ms["p50"]))
    print(row("E2E p50, ms", real.e2e_ms["p50"], mine.e2e_ms["p50"]))
    print(row("prefix hits", real.prefix_hit_rate or 0.0, mine.prefix_hit_rate, percent=False))
    limited = real.client_limited or done.client_limited or "no"
    print(f"\nerrors {real.errors} and {done.errors}; limited by the client: {limited}; ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
