"""Small fleets for the simulation's tests: real speed models, few blocks, so that caches fill and requests queue."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from llmfleet.planner.catalog import catalog
from llmfleet.planner.choose.decision import Decision, decide
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.make import make_plan
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.arrays import ROW, TIMES, World
from llmfleet.planner.simulate.fleet import Engine, Fleet, Policy, fleet_of
from llmfleet.planner.simulate.requests import Stream, merged
from llmfleet.planner.simulate.router import finish, run
from llmfleet.planner.simulate.speeds import Pace
from llmfleet.planner.simulate.world import world_of

FLEET = """
cluster: c
access: {transport: fake}
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "big-[0-1]", host: "10.0.1.[10-11]", gpus: 2 x H100-80G}
  - {name: "small-0", host: "10.0.2.10", gpus: 4 x L40S}
services:
  - name: chat
    model: Qwen/Qwen2.5-7B-Instruct
    traffic: {rate: 20, input: {mean: 1000, p99: 4000}, output: {mean: 100}, shared_prefix: 0.5}
    slo: {ttft: 2s, tpot: 60ms}
"""


@lru_cache(maxsize=1)
def planned() -> tuple[Decision, Plan]:
    inventory = parse(FLEET, "inventory.yaml")
    model = catalog().model("Qwen/Qwen2.5-7B-Instruct")
    assert model is not None
    return decide(inventory, {"chat": model}, catalog()), make_plan(inventory, {"chat": model})


def one_engine(
    *, blocks: int = 400, seqs: int = 8, chunk: int = 512, longest: int = 2048, cap: int = 1000, threshold: int = 0
) -> Fleet:
    """The plan's first instance alone, with limits of the test's choosing."""
    fleet = fleet_of(*planned())
    engine = small(fleet.engines[0], blocks=blocks, seqs=seqs, chunk=chunk, longest=longest, cap=cap)
    engine = replace(engine, instance=replace(engine.instance, long_prefill_token_threshold=threshold))
    pool = replace(fleet.pools[0], members=(0,), weights=(1.0,))
    return Fleet((engine,), (pool,), {("chat", False): (0,) * 6}, frozenset())


def small(engine: Engine, *, blocks: int, seqs: int, chunk: int, longest: int, cap: int) -> Engine:
    pace = Pace(engine.pace.steps, seqs, chunk, longest, 1)
    instance = replace(engine.instance, max_model_len=longest, max_num_seqs=seqs, max_concurrency=cap)
    return replace(engine, instance=instance, pace=pace, blocks=blocks, block=16)


def stream(rows: list[tuple[float, int, int]], shared: list[list[int]] | None = None, grain: int = 64) -> Stream:
    """Requests as (seconds, prompt, answer); `shared`: numbers of the segments that each begins with."""
    parts = shared or [[] for _ in rows]
    numbers = [n for part in parts for n in part]
    start = np.zeros(max(numbers, default=-1) + 1, dtype=np.int64)
    for part in parts:
        for place, n in enumerate(part):
            start[n] = place * grain
    keys = [part[0] if part else 1000 + i for i, part in enumerate(parts)]
    return Stream(
        "chat",
        np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), np.array([r[2] for r in rows]),
        np.array(keys), np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64),
        np.array(numbers, dtype=np.int64), np.full(len(start), grain), start,
    )  # fmt: skip


def ran(fleet: Fleet, requests: Stream, *, policy: Policy = "router", most: int | None = None) -> World:
    kinds = {kind: row for row, kind in enumerate(fleet.tries)}
    world = world_of(fleet, policy, merged([requests], kinds, fleet.over()))
    if most is not None:
        world = world._replace(most=most)
    run(world, 0, len(requests.arrival))
    finish(world)
    return world


def requests_of(world: World) -> np.ndarray:
    return np.asarray(world.request).reshape(-1, ROW)


def times_of(world: World) -> np.ndarray:
    return np.asarray(world.times).reshape(-1, TIMES)
