"""The router's choice for each request, as Envoy makes it from the files that the plan gives it, and the whole run."""

from __future__ import annotations

from llmfleet.planner.simulate.arrays import (
    ACTIVE,
    ARRIVAL,
    CAP,
    CLOCKS,
    DEADLINE,
    END_MEMBER,
    ENDS,
    FIRST_MEMBER,
    LONGEST,
    M_ACTIVE,
    M_ENGINE,
    MEMBER,
    MOST_TRIES,
    NEVER,
    PENDING,
    POLICY,
    POOL,
    POOL_ACTIVE,
    R_ANSWER,
    R_ENGINE,
    R_KIND,
    R_MEMBER,
    R_OUTCOME,
    R_PROMPT,
    R_TRIES,
    REFUSED,
    ROW,
    SHARE,
    SPOT,
    TIMES,
    TOO_LONG,
    UPTO,
    WEIGHT,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.compiled import compiled, entry
from llmfleet.planner.simulate.engine import finish_step, start_step, submit

TURNS, LEAST, RING = 0, 1, 2
GOLDEN = 0.6180339887498949


@entry
def run(world: World, first: int, end: int) -> None:
    """Requests `first` to `end`, in the order of their arrival."""
    for r in range(first, end):
        _arrive(world, r)


@entry
def finish(world: World) -> None:
    """What is still under way."""
    for e in range(len(world.engine) // WIDTH):
        advance(world, e, 1e300)


@compiled
def advance(world: World, e: int, until: float) -> None:
    """Everything that ends on the engine by then."""
    while world.clock[e * CLOCKS + ENDS] <= until:
        finish_step(world, e)
        start_step(world, e, world.clock[e * CLOCKS + ENDS])


@compiled
def _arrive(world: World, r: int) -> None:
    """Each try goes to the pool that its kind of request has for it, and there to a member not tried yet."""
    now, kind = world.times[r * TIMES + ARRIVAL], world.request[r * ROW + R_KIND]
    request, engine, member = world.request, world.engine, world.member
    request[r * ROW + R_OUTCOME] = REFUSED
    seen, tries = -1, 0
    for step in range(MOST_TRIES):
        pool = world.tries[kind * MOST_TRIES + step]
        if pool < 0:
            return
        if pool != seen:
            for m in range(world.pool[pool * POOL + FIRST_MEMBER], world.pool[pool * POOL + END_MEMBER]):
                e = member[m * MEMBER + M_ENGINE]
                if world.clock[e * CLOCKS + ENDS] <= now:
                    advance(world, e, now)
            seen, tries = pool, 0
        chosen = _choose(world, pool, r, tries)
        tries += 1
        request[r * ROW + R_TRIES] += 1
        e = member[chosen * MEMBER + M_ENGINE]
        if request[r * ROW + R_PROMPT] + request[r * ROW + R_ANSWER] > engine[e * WIDTH + LONGEST]:
            request[r * ROW + R_OUTCOME] = TOO_LONG
        elif engine[e * WIDTH + ACTIVE] < engine[e * WIDTH + CAP]:
            member[chosen * MEMBER + M_ACTIVE] += 1
            world.pool[pool * POOL + POOL_ACTIVE] += 1
            request[r * ROW + R_MEMBER] = chosen
            request[r * ROW + R_ENGINE] = e
            request[r * ROW + R_OUTCOME] = PENDING
            submit(world, e, r, now)
            return


@compiled
def _choose(world: World, pool: int, r: int, tries: int) -> int:
    first, end = world.pool[pool * POOL + FIRST_MEMBER], world.pool[pool * POOL + END_MEMBER]
    if end - first == 1:
        return int(first)
    policy = world.pool[pool * POOL + POLICY]
    if policy == TURNS:
        return _next(world, first, end)
    if policy == LEAST:
        return _least(world, first, end)
    return _on_ring(world, pool, r, tries)


@compiled
def _next(world: World, first: int, end: int) -> int:
    share, best = world.share, first
    for m in range(first + 1, end):
        if share[m * SHARE + DEADLINE] < share[best * SHARE + DEADLINE]:
            best = m
    share[best * SHARE + DEADLINE] += 1 / share[best * SHARE + WEIGHT]
    return int(best)


@compiled
def _least(world: World, first: int, end: int) -> int:
    best, least = first, NEVER
    for m in range(first, end):
        load = (world.member[m * MEMBER + M_ACTIVE] + 1) / world.share[m * SHARE + WEIGHT]
        if load < least:
            best, least = m, load
    return int(best)


@compiled
def _on_ring(world: World, pool: int, r: int, tries: int) -> int:
    """The member whose part of the ring holds the prefix; others in an order of the prefix's own when that is over its
    bound or has failed the request (envoy/source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc)."""
    first, end = world.pool[pool * POOL + FIRST_MEMBER], world.pool[pool * POOL + END_MEMBER]
    count, spot = end - first, world.times[r * TIMES + SPOT]
    total = (world.pool[pool * POOL + POOL_ACTIVE] + 1) * world.bound
    least, least_load, skip = first, NEVER, tries
    for turn in range(1 + 2 * count):
        m = _owner(world, first, end, spot)
        if turn > 0:
            m = first + int(((spot * 7919.0 + turn * GOLDEN) % 1.0) * count)
        load = 0.0
        if world.bound > 0:
            places = max(1.0, -((-total * world.share[m * SHARE + WEIGHT]) // 1.0))
            load = world.member[m * MEMBER + M_ACTIVE] / places
        if load < 1:
            if skip == 0:
                return int(m)
            skip -= 1
        if load < least_load:
            least, least_load = m, load
    return int(first + (least - first + tries) % count)


@compiled
def _owner(world: World, first: int, end: int, spot: float) -> int:
    low, high = first, end - 1
    while low < high:
        middle = (low + high) // 2
        if world.share[middle * SHARE + UPTO] <= spot:
            low = middle + 1
        else:
            high = middle
    return int(low)
