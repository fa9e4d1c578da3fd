"""One engine, step by step: continuous batching with chunked prefill, a queue, and preemption where blocks run out.

Decoding requests come first in every step, then prompts (see prompts.py). Steps that only decode are taken many at
once, up to the next answer that ends; a request that arrives meanwhile cuts them.
Source of the order: vllm/v1/core/sched/scheduler.py.
"""

from __future__ import annotations

from llmfleet.planner.simulate.arrays import (
    ACTIVE,
    BLOCK,
    BLOCKS,
    BUSY,
    CLOCKS,
    CONTEXT,
    DECODING,
    DONE,
    ENDS,
    EVICTABLE,
    FINISHING,
    FIRST_STEP,
    FIRST_TOKEN,
    FIRST_WAITING,
    FREE,
    GROWTH,
    HEAP,
    KV_TIME,
    LAST_TOKEN,
    LAST_WAITING,
    M_ACTIVE,
    M_POOL,
    MEMBER,
    NEVER,
    PARTIAL,
    PHASE,
    POOL,
    POOL_ACTIVE,
    PREEMPTED,
    R_AFTER,
    R_ANSWER,
    R_FINISH,
    R_HELD,
    R_JOINED,
    R_MADE,
    R_MEMBER,
    R_ORDER,
    R_OUTCOME,
    R_PROMPT,
    ROW,
    RUNNING,
    RUNNING_TIME,
    SLOTS,
    SLOWER,
    SPEED,
    STARTED,
    STEPS,
    TICK,
    TIMES,
    WAITING,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.cache import give_back, take
from llmfleet.planner.simulate.compiled import compiled
from llmfleet.planner.simulate.heap import pop, push, remove
from llmfleet.planner.simulate.prompts import cut_behind, fill_step
from llmfleet.planner.simulate.steps import LAG, base_s, decode_s


@compiled
def submit(world: World, e: int, r: int, now: float) -> None:
    """Puts a request at the end of the queue. An idle engine starts at once, a busy one with its next step."""
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    t = e * CLOCKS
    clock = world.clock
    request[q + R_AFTER] = -1
    if state[at + FIRST_WAITING] < 0:
        state[at + FIRST_WAITING] = r
    else:
        request[state[at + LAST_WAITING] * ROW + R_AFTER] = r
    state[at + LAST_WAITING] = r
    state[at + WAITING] += 1
    state[at + ACTIVE] += 1
    if clock[t + ENDS] == NEVER:
        start_step(world, e, now)
    elif state[at + STEPS] > 1:
        _cut(world, e, now)


@compiled
def _cut(world: World, e: int, now: float) -> None:
    """Of several decode steps in a row only those that have begun by `now` are kept."""
    state, at = world.engine, e * WIDTH
    t = e * CLOCKS
    clock = world.clock
    first, growth, gone = clock[t + FIRST_STEP], clock[t + GROWTH], now - clock[t + STARTED]
    if growth > 0:
        half = first - growth / 2
        begun = (-half + (half * half + 2 * growth * gone) ** 0.5) / growth
    else:
        begun = gone / first
    steps = max(1, min(int(begun) + 1, state[at + STEPS]))
    state[at + STEPS] = steps
    clock[t + ENDS] = clock[t + STARTED] + steps * first + growth * steps * (steps - 1) / 2


@compiled
def finish_step(world: World, e: int) -> None:
    """What is true at the end of the step, or steps, under way: tokens, answers that ended, first tokens."""
    state, at = world.engine, e * WIDTH
    request = world.request
    t = e * CLOCKS
    clock = world.clock
    now, steps, decoding = clock[t + ENDS], state[at + STEPS], state[at + DECODING]
    took = now - clock[t + STARTED]
    clock[t + BUSY] += took
    clock[t + RUNNING_TIME] += took * state[at + RUNNING]
    clock[t + KV_TIME] += took * (state[at + BLOCKS] - state[at + FREE] - state[at + EVICTABLE])
    if decoding > 0:
        take(world, e, _blocks_needed(world, e, steps))
    state[at + TICK] += steps
    clock[t + CONTEXT] += steps * decoding
    tick, heap = state[at + TICK], state[at + SLOTS]
    while state[at + HEAP] > 0 and world.ticks[heap] <= tick:
        r = world.who[heap]
        pop(world, e)
        _leave_batch(world, e, r)
        request[r * ROW + R_MADE] = request[r * ROW + R_ANSWER]
        _complete(world, e, r, now)
    lag = took * world.grid[world.tables[state[at + SPEED]] + LAG]
    for i in range(state[at + FINISHING]):
        _prompt_done(world, e, world.finishing[heap + i], now, lag)
    state[at + FINISHING] = 0


@compiled
def _prompt_done(world: World, e: int, r: int, now: float, lag: float) -> None:
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    t = e * CLOCKS
    clock = world.clock
    tokens = request[q + R_PROMPT] + request[q + R_MADE]
    if request[q + R_MADE] == 0:
        world.times[r * TIMES + FIRST_TOKEN] = now + lag
    request[q + R_MADE] += 1
    request[q + R_HELD] = tokens
    request[q + R_JOINED] = state[at + TICK]
    if request[q + R_MADE] >= request[q + R_ANSWER]:
        _complete(world, e, r, now + lag)
        return
    request[q + R_FINISH] = state[at + TICK] + request[q + R_ANSWER] - request[q + R_MADE]
    block = state[at + BLOCK]
    world.phases[state[at + PHASE] + (state[at + TICK] - tokens) % block] += 1
    state[at + DECODING] += 1
    clock[t + CONTEXT] += tokens
    push(world, e, request[q + R_FINISH], r)


@compiled
def _leave_batch(world: World, e: int, r: int) -> None:
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    t = e * CLOCKS
    clock = world.clock
    grown = state[at + TICK] - request[q + R_JOINED]
    phase = (request[q + R_JOINED] - request[q + R_HELD]) % state[at + BLOCK]
    world.phases[state[at + PHASE] + phase] -= 1
    state[at + DECODING] -= 1
    clock[t + CONTEXT] -= request[q + R_HELD] + grown
    request[q + R_HELD] += grown


@compiled
def _complete(world: World, e: int, r: int, now: float) -> None:
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    give_back(world, e, r, request[q + R_HELD])
    world.times[r * TIMES + LAST_TOKEN] = now
    request[q + R_OUTCOME] = DONE
    state[at + RUNNING] -= 1
    state[at + ACTIVE] -= 1
    member = request[q + R_MEMBER]
    if member >= 0:
        world.member[member * MEMBER + M_ACTIVE] -= 1
        world.pool[world.member[member * MEMBER + M_POOL] * POOL + POOL_ACTIVE] -= 1


@compiled
def _blocks_needed(world: World, e: int, steps: int) -> int:
    """By the decoding requests over the next steps: each needs one when its last is full."""
    state, at = world.engine, e * WIDTH
    block, phase = state[at + BLOCK], state[at + PHASE]
    tick = state[at + TICK]
    need = steps // block * state[at + DECODING]
    for i in range(steps % block):
        need += world.phases[phase + (tick + i) % block]
    return int(need)


@compiled
def start_step(world: World, e: int, now: float) -> None:
    """Begins the next step, or several that only decode; without any work the engine is idle."""
    state, at = world.engine, e * WIDTH
    t = e * CLOCKS
    clock = world.clock
    need = _blocks_needed(world, e, 1)
    while need > state[at + FREE] + state[at + EVICTABLE]:
        _preempt(world, e)
        need = _blocks_needed(world, e, 1)
    prompt, attention = fill_step(world, e, need, now)
    table = world.tables[state[at + SPEED]]
    decoding = state[at + DECODING]
    clock[t + STARTED] = now
    if prompt == 0 and decoding == 0:
        clock[t + ENDS] = NEVER
        return
    batch = decoding + state[at + FINISHING]
    slower = clock[t + SLOWER]
    context = clock[t + CONTEXT] / decoding if decoding > 0 else 0.0
    attention += decode_s(world, table, decoding, context) if decoding > 0 else 0.0
    first = slower * (base_s(world, table, batch, prompt - state[at + FINISHING]) + attention)
    steps, growth = 1, 0.0
    if prompt == 0 and world.most > 1:
        steps = min(world.most, _steps_ahead(world, e))
        if steps > 1:
            more = decode_s(world, table, decoding, context + steps - 1) - decode_s(world, table, decoding, context)
            growth = slower * more / (steps - 1)
    state[at + STEPS] = steps
    clock[t + FIRST_STEP] = first
    clock[t + GROWTH] = growth
    clock[t + ENDS] = now + steps * first + growth * steps * (steps - 1) / 2


@compiled
def _steps_ahead(world: World, e: int) -> int:
    """Decode steps until an answer ends or blocks run out."""
    state, at = world.engine, e * WIDTH
    heap = state[at + SLOTS]
    steps = world.ticks[heap] - state[at + TICK]
    room = state[at + FREE] + state[at + EVICTABLE]
    if _blocks_needed(world, e, steps) <= room:
        return int(steps)
    low, high = 1, steps
    while high - low > 1:
        middle = (low + high) // 2
        if _blocks_needed(world, e, middle) <= room:
            low = middle
        else:
            high = middle
    return int(low)


@compiled
def _preempt(world: World, e: int) -> None:
    """The request admitted last loses its blocks and is the next of the queue."""
    state, at = world.engine, e * WIDTH
    request = world.request
    heap = state[at + SLOTS]
    last, before, r = -1, -1, state[at + PARTIAL]
    while r >= 0 and request[r * ROW + R_AFTER] >= 0:
        before, r = r, request[r * ROW + R_AFTER]
    place = 0
    for i in range(state[at + HEAP]):
        if request[world.who[heap + i] * ROW + R_ORDER] > last:
            place, last = i, request[world.who[heap + i] * ROW + R_ORDER]
    if r >= 0 and request[r * ROW + R_ORDER] > last:
        cut_behind(world, e, before, -1)
        tokens = request[r * ROW + R_PROMPT] + request[r * ROW + R_MADE]
    else:
        r = world.who[heap + place]
        to_come = request[r * ROW + R_FINISH] - state[at + TICK]
        request[r * ROW + R_MADE] = request[r * ROW + R_ANSWER] - to_come
        _leave_batch(world, e, r)
        tokens = request[r * ROW + R_HELD]
        request[r * ROW + R_JOINED] = -1
        remove(world, e, place)
    give_back(world, e, r, tokens)
    state[at + RUNNING] -= 1
    state[at + PREEMPTED] += 1
    request[r * ROW + R_AFTER] = state[at + FIRST_WAITING]
    if state[at + FIRST_WAITING] < 0:
        state[at + LAST_WAITING] = r
    state[at + FIRST_WAITING] = r
    state[at + WAITING] += 1


@compiled
def drop_waiting(world: World, e: int, r: int) -> bool:
    """Takes a request out of the queue; False if it is not in there."""
    state, at = world.engine, e * WIDTH
    request = world.request
    before, here = -1, state[at + FIRST_WAITING]
    while here >= 0 and here != r:
        before, here = here, request[here * ROW + R_AFTER]
    if here < 0:
        return False
    after = request[r * ROW + R_AFTER]
    if before < 0:
        state[at + FIRST_WAITING] = after
    else:
        request[before * ROW + R_AFTER] = after
    if state[at + LAST_WAITING] == r:
        state[at + LAST_WAITING] = before
    state[at + WAITING] -= 1
    state[at + ACTIVE] -= 1
    return True


@compiled
def end_early(world: World, e: int, r: int) -> None:
    """The answer ends with the step under way, or where its prompt is still computed, with its first token."""
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    heap = state[at + SLOTS]
    for i in range(state[at + HEAP]):
        if world.who[heap + i] == r:
            made = request[q + R_MADE] + state[at + TICK] + 1 - request[q + R_JOINED]
            request[q + R_ANSWER] = min(request[q + R_ANSWER], made)
            request[q + R_FINISH] = min(request[q + R_FINISH], state[at + TICK] + 1)
            remove(world, e, i)
            push(world, e, request[q + R_FINISH], r)
            return
    request[q + R_ANSWER] = request[q + R_MADE] + 1
