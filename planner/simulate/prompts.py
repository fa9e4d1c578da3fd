"""Whose prompt tokens a step of an engine carries: prompts that were cut, in their order, then the queue.

A prompt takes all that is left of a step, or no more than the engine's threshold while other requests are there
(vLLM's long_prefill_token_threshold; up to 0.32 also while it is alone). Source: vllm/v1/core/sched/scheduler.py.
"""

from __future__ import annotations

from llmfleet.planner.simulate.arrays import (
    ACTIVE,
    ADMITTED,
    ADMITTED_AT,
    CHUNK,
    DECODING,
    FINISHING,
    FIRST_WAITING,
    PARTIAL,
    R_ADMISSIONS,
    R_AFTER,
    R_LEFT,
    R_MADE,
    R_ORDER,
    R_PROMPT,
    ROW,
    RUNNING,
    SEQS,
    SLOTS,
    SPEED,
    THRESHOLD,
    TIMES,
    WAITING,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.cache import hold
from llmfleet.planner.simulate.compiled import compiled
from llmfleet.planner.simulate.steps import prefill_s


@compiled
def fill_step(world: World, e: int, reserved: int, now: float) -> tuple[int, float]:
    """Gives the step's tokens to prompts: how many, and the seconds of their attention."""
    state, at = world.engine, e * WIDTH
    request, table = world.request, world.tables[state[at + SPEED]]
    budget = state[at + CHUNK] - state[at + DECODING]
    prompt, attention = 0, 0.0
    if state[at + PARTIAL] < 0 and state[at + WAITING] == 0:
        return prompt, attention
    most = state[at + THRESHOLD] if state[at + ACTIVE] > 1 else budget  # nobody waits for the only one
    cut, r = -1, state[at + PARTIAL]  # `cut`: the last of those that go on with the next step
    while budget > 0:
        if r < 0:
            r = _admit(world, e, reserved, now)
            if r < 0:
                break
        after, left = request[r * ROW + R_AFTER], request[r * ROW + R_LEFT]
        tokens = min(left, budget, most)
        before = request[r * ROW + R_PROMPT] + request[r * ROW + R_MADE] - left
        attention += prefill_s(world, table, tokens, before)
        request[r * ROW + R_LEFT] -= tokens
        budget -= tokens
        prompt += tokens
        if tokens < left:
            cut_behind(world, e, cut, r)
            cut = r
        else:
            world.finishing[state[at + SLOTS] + state[at + FINISHING]] = r
            state[at + FINISHING] += 1
        r = after
    cut_behind(world, e, cut, r)
    return prompt, attention


@compiled
def cut_behind(world: World, e: int, before: int, r: int) -> None:
    """Prompts that were cut are a chain in the order of their admission. `r` -1 ends it."""
    if before < 0:
        world.engine[e * WIDTH + PARTIAL] = r
    else:
        world.request[before * ROW + R_AFTER] = r


@compiled
def _admit(world: World, e: int, reserved: int, now: float) -> int:
    """The first of the queue, if there is a place and room for its prompt; else -1."""
    state, at = world.engine, e * WIDTH
    request = world.request
    r = state[at + FIRST_WAITING]
    if r < 0 or state[at + RUNNING] >= state[at + SEQS]:
        return -1
    if not hold(world, e, r, reserved):
        return -1
    state[at + FIRST_WAITING] = request[r * ROW + R_AFTER]
    request[r * ROW + R_AFTER] = -1
    state[at + WAITING] -= 1
    state[at + RUNNING] += 1
    state[at + ADMITTED] += 1
    request[r * ROW + R_ORDER] = state[at + ADMITTED]
    if request[r * ROW + R_ADMISSIONS] == 1:
        world.times[r * TIMES + ADMITTED_AT] = now
    return int(r)
