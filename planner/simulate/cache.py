"""KV blocks and the prefix cache of one engine: what is held, what may be evicted, what a new prompt finds.

As vLLM does it: blocks of a finished request stay until room is needed, the least recently used go first, and of one
request the last ones before the first. Requests' own blocks and those of answers take room as well.
"""

from __future__ import annotations

from llmfleet.planner.simulate.arrays import (
    AFTER,
    BEFORE,
    BLOCK,
    EVICTABLE,
    FREE,
    HELD_BLOCKS,
    HIT_TOKENS,
    NODE,
    NODES,
    PROMPT_TOKENS,
    R_ADMISSIONS,
    R_CACHED,
    R_LEFT,
    R_MADE,
    R_PROMPT,
    R_SEGMENT_END,
    R_SEGMENTS,
    R_SEGMENTS_END,
    ROW,
    SEGMENT_START,
    SEGMENT_TOKENS,
    USERS,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.compiled import compiled


@compiled
def unlink(world: World, node: int) -> None:
    before, after = world.node[node * NODE + BEFORE], world.node[node * NODE + AFTER]
    world.node[before * NODE + AFTER] = after
    world.node[after * NODE + BEFORE] = before


@compiled
def most_recent(world: World, e: int, node: int) -> None:
    end = world.sentinels + e
    last = world.node[end * NODE + BEFORE]
    world.node[last * NODE + AFTER] = node
    world.node[node * NODE + BEFORE] = last
    world.node[node * NODE + AFTER] = end
    world.node[end * NODE + BEFORE] = node


@compiled
def take(world: World, e: int, blocks: int) -> None:
    """The caller has seen that so many are free or evictable."""
    state, at = world.engine, e * WIDTH
    while state[at + FREE] < blocks:
        node = world.node[(world.sentinels + e) * NODE + AFTER]
        gives = world.node[node * NODE + HELD_BLOCKS]
        if node >= world.own and gives > blocks - state[at + FREE]:
            gives = blocks - state[at + FREE]  # its last blocks; the others may still be found
        else:
            unlink(world, node)
        world.node[node * NODE + HELD_BLOCKS] -= gives
        state[at + EVICTABLE] -= gives
        state[at + FREE] += gives
    state[at + FREE] -= blocks


@compiled
def segment_blocks(world: World, e: int, segment: int) -> int:
    state, at = world.engine, e * WIDTH
    block = state[at + BLOCK]
    start = world.segment[segment * 2 + SEGMENT_START]
    return int((start + world.segment[segment * 2 + SEGMENT_TOKENS]) // block - start // block)


@compiled
def hold(world: World, e: int, r: int, reserved: int) -> bool:
    """Gives a prompt its blocks, or says that there is no room beside the `reserved` ones.

    Afterwards R_LEFT is what the cache did not have.
    """
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    base = state[at + NODES]
    tokens = request[q + R_PROMPT] + request[q + R_MADE]  # a preempted one computes its answer again
    first, last = request[q + R_SEGMENTS], request[q + R_SEGMENTS_END]
    if base < 0:
        last = first  # it keeps nothing
    hit, hit_blocks, idle = 0, 0, 0
    unbroken = True
    for i in range(first, last):
        segment = world.segments[i]
        node = base + segment
        count = segment_blocks(world, e, segment)
        if count == 0 or world.node[node * NODE + HELD_BLOCKS] > 0:
            if count > 0 and world.node[node * NODE + USERS] == 0:
                idle += count
            hit_blocks += count
            if unbroken:
                hit += world.segment[segment * 2 + SEGMENT_TOKENS]
        else:
            unbroken = False
    need = (tokens + state[at + BLOCK] - 1) // state[at + BLOCK] - hit_blocks
    if need + reserved > state[at + FREE] + state[at + EVICTABLE] - idle:
        return False
    for i in range(first, last):
        node = base + world.segments[i]
        if world.node[node * NODE + USERS] == 0 and world.node[node * NODE + HELD_BLOCKS] > 0:
            unlink(world, node)
            state[at + EVICTABLE] -= world.node[node * NODE + HELD_BLOCKS]
        world.node[node * NODE + USERS] += 1
    take(world, e, need)
    for i in range(first, last):
        segment = world.segments[i]
        world.node[(base + segment) * NODE + HELD_BLOCKS] = segment_blocks(world, e, segment)
    whole = hit // state[at + BLOCK] * state[at + BLOCK]
    hit = min(whole, tokens - 1)  # the last token is computed in any case
    request[q + R_SEGMENT_END] = last
    request[q + R_LEFT] = tokens - hit
    if request[q + R_ADMISSIONS] == 0:
        request[q + R_CACHED] = hit
        state[at + HIT_TOKENS] += hit
        state[at + PROMPT_TOKENS] += tokens
    request[q + R_ADMISSIONS] += 1
    return True


@compiled
def give_back(world: World, e: int, r: int, tokens: int) -> None:
    """What a request with so many tokens in the cache held is evictable now, unless others hold it too."""
    state, at = world.engine, e * WIDTH
    request, q = world.request, r * ROW
    base = state[at + NODES]
    first, last = request[q + R_SEGMENTS], request[q + R_SEGMENT_END]
    own = (tokens + state[at + BLOCK] - 1) // state[at + BLOCK]
    for i in range(first, last):
        own -= segment_blocks(world, e, world.segments[i])
    if own > 0:
        node = world.own + r
        world.node[node * NODE + HELD_BLOCKS] = own
        most_recent(world, e, node)
        state[at + EVICTABLE] += own
    for i in range(last - 1, first - 1, -1):
        node = base + world.segments[i]
        world.node[node * NODE + USERS] -= 1
        if world.node[node * NODE + USERS] == 0 and world.node[node * NODE + HELD_BLOCKS] > 0:
            most_recent(world, e, node)
            state[at + EVICTABLE] += world.node[node * NODE + HELD_BLOCKS]
