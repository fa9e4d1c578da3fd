"""A fleet and its requests as the columns that the simulation runs on: everything idle and empty."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmfleet.planner.simulate.arrays import (
    AFTER,
    BEFORE,
    BLOCK,
    BLOCKS,
    CAP,
    CHUNK,
    CLOCKS,
    DEADLINE,
    END_MEMBER,
    ENDS,
    FIRST_MEMBER,
    FIRST_WAITING,
    FREE,
    LONGEST,
    M_ENGINE,
    M_POOL,
    MEMBER,
    MOST_TRIES,
    NEVER,
    NODE,
    NODES,
    PARTIAL,
    PHASE,
    POLICY,
    POOL,
    SEQS,
    SHARE,
    SLOTS,
    SLOWER,
    SPEED,
    THRESHOLD,
    UNLIMITED,
    UPTO,
    WEIGHT,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.compiled import column
from llmfleet.planner.simulate.fleet import BOUND, Engine, Fleet, Policy, choice, weights
from llmfleet.planner.simulate.requests import Merged
from llmfleet.planner.simulate.speeds import speed_tables

Array = NDArray[Any]


def world_of(fleet: Fleet, policy: Policy, requests: Merged) -> World:
    engines, count = fleet.engines, len(requests.request)
    paces = list(dict.fromkeys(e.pace for e in engines))
    tables, grid = speed_tables(paces)
    segments = len(requests.segment)
    caching = [bool(e.blocks) and segments > 0 for e in engines]
    own = sum(caching) * segments
    state = engine_columns(engines, {pace: i for i, pace in enumerate(paces)})
    state[:, NODES] = np.where(caching, np.cumsum(caching) * segments - segments, -1)
    tries, pool, member, share = _routes(fleet, policy)
    heaps = sum(max(1, e.pace.seqs) for e in engines)
    return World(
        engine=_column(state),
        clock=_column(clock_columns(len(engines))),
        ticks=_column(np.zeros(heaps, dtype=np.int64)),
        who=_column(np.zeros(heaps, dtype=np.int64)),
        finishing=_column(np.zeros(heaps, dtype=np.int64)),
        phases=_column(np.zeros(sum(e.block for e in engines), dtype=np.int64)),
        request=_column(requests.request),
        times=_column(requests.times),
        segments=_column(requests.segments),
        segment=_column(requests.segment),
        node=_column(cache_columns(own + count + len(engines))),
        sentinels=own + count,
        own=own,
        tables=tables,
        grid=grid,
        tries=_column(tries),
        pool=_column(pool),
        member=_column(member),
        share=_column(share),
        most=UNLIMITED,
        bound=BOUND if policy == "router" else 0.0,
    )


def engine_columns(engines: tuple[Engine, ...], paces: dict[Any, int]) -> Array:
    state = np.zeros((len(engines), WIDTH), dtype=np.int64)
    slots = phases = 0
    for row, e in zip(state, engines, strict=True):
        blocks = e.blocks or UNLIMITED
        row[[SEQS, CHUNK, BLOCK, BLOCKS]] = max(1, e.pace.seqs), e.pace.chunk, e.block, blocks
        row[[LONGEST, CAP, SPEED, SLOTS, PHASE]] = e.longest, e.instance.max_concurrency, paces[e.pace], slots, phases
        row[[FREE, FIRST_WAITING, PARTIAL, NODES]] = blocks, -1, -1, -1
        row[THRESHOLD] = e.instance.long_prefill_token_threshold or UNLIMITED
        slots += max(1, e.pace.seqs)
        phases += e.block
    return state


def clock_columns(engines: int) -> Array:
    clock = np.zeros((engines, CLOCKS))
    clock[:, ENDS], clock[:, SLOWER] = NEVER, 1.0
    return clock


def cache_columns(nodes: int) -> Array:
    """Nothing is held, and every sentinel is a ring of its own."""
    node = np.zeros((nodes, NODE), dtype=np.int64)
    node[:, BEFORE] = node[:, AFTER] = np.arange(nodes)
    return node


def _routes(fleet: Fleet, policy: Policy) -> tuple[Array, Array, Array, Array]:
    tries = np.full((len(fleet.tries), MOST_TRIES), -1, dtype=np.int64)
    for row, pools in zip(tries, fleet.tries.values(), strict=True):
        row[: len(pools)] = pools[:MOST_TRIES]
    ends = np.cumsum([len(p.members) for p in fleet.pools])
    pool = np.zeros((len(fleet.pools), POOL), dtype=np.int64)
    pool[:, FIRST_MEMBER], pool[:, END_MEMBER] = [0, *ends[:-1]], ends
    pool[:, POLICY] = [choice(p, policy) for p in fleet.pools]
    member = np.zeros((int(ends[-1]), MEMBER), dtype=np.int64)
    member[:, M_ENGINE] = [m for p in fleet.pools for m in p.members]
    member[:, M_POOL] = [i for i, p in enumerate(fleet.pools) for _ in p.members]
    share = np.zeros((int(ends[-1]), SHARE))
    share[:, WEIGHT] = [w for p in fleet.pools for w in weights(p, policy)]
    share[:, UPTO] = [u for p in fleet.pools for u in np.cumsum(weights(p, policy))]
    share[:, DEADLINE] = 1 / share[:, WEIGHT]
    return tries, pool, member, share


def _column(values: Array) -> Any:
    return column(np.ascontiguousarray(values).ravel())
