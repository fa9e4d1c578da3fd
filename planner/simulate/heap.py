"""Decoding requests of an engine by the tick at which they finish, soonest first: a binary heap in two columns."""

from __future__ import annotations

from llmfleet.planner.simulate.arrays import HEAP, SLOTS, WIDTH, World
from llmfleet.planner.simulate.compiled import compiled


@compiled
def remove(world: World, e: int, place: int) -> None:
    state, at = world.engine, e * WIDTH
    heap = state[at + SLOTS]
    size = state[at + HEAP]
    state[at + HEAP] = 0
    for i in range(size):
        if i != place:
            push(world, e, world.ticks[heap + i], world.who[heap + i])


@compiled
def push(world: World, e: int, tick: int, r: int) -> None:
    state, at = world.engine, e * WIDTH
    heap = state[at + SLOTS]
    ticks, who = world.ticks, world.who
    i = state[at + HEAP]
    state[at + HEAP] += 1
    while i > 0:
        parent = (i - 1) // 2
        if ticks[heap + parent] <= tick:
            break
        ticks[heap + i] = ticks[heap + parent]
        who[heap + i] = who[heap + parent]
        i = parent
    ticks[heap + i] = tick
    who[heap + i] = r


@compiled
def pop(world: World, e: int) -> None:
    state, at = world.engine, e * WIDTH
    heap = state[at + SLOTS]
    ticks, who = world.ticks, world.who
    state[at + HEAP] -= 1
    size = state[at + HEAP]
    tick, r = ticks[heap + size], who[heap + size]
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and ticks[heap + child + 1] < ticks[heap + child]:
            child += 1
        if ticks[heap + child] >= tick:
            break
        ticks[heap + i] = ticks[heap + child]
        who[heap + i] = who[heap + child]
        i = child
    ticks[heap + i] = tick
    who[heap + i] = r
