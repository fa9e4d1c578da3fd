"""The simulation's data as a few flat columns: what compiled code and plain Python can both work on, and quickly.

Engines, pools, members of pools, requests and segments of prompts are numbers. A segment is a part of a prompt that
several prompts begin with; segments of a prompt follow one another, and each stands behind the same ones everywhere.
A field of row i is at `i * width + FIELD`. Times are seconds, lengths tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NEVER = float("inf")
UNLIMITED = 1 << 40

# World.engine: limits of an engine, where its parts of other columns begin, and its counters.
SEQS, CHUNK, BLOCK, BLOCKS, LONGEST, CAP, SPEED, NODES, SLOTS, PHASE = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
RUNNING, DECODING, TICK, FREE, EVICTABLE, ACTIVE, WAITING, STEPS = 10, 11, 12, 13, 14, 15, 16, 17
FIRST_WAITING, LAST_WAITING, PARTIAL, HEAP, FINISHING = 18, 19, 20, 21, 22
ADMITTED, PREEMPTED, HIT_TOKENS, PROMPT_TOKENS = 23, 24, 25, 26
THRESHOLD = 27  # prompt tokens of one request in a step while others are there
WIDTH = 28
# World.clock: the step under way, and sums over time.
STARTED, ENDS, CONTEXT, FIRST_STEP, GROWTH, BUSY, RUNNING_TIME, KV_TIME, SLOWER = 0, 1, 2, 3, 4, 5, 6, 7, 8
CLOCKS = 9

# World.request: what it asks, what became of it, and what is kept of it on the way.
R_KIND, R_PROMPT, R_ANSWER, R_SEGMENTS, R_SEGMENTS_END = 0, 1, 2, 3, 4
R_ENGINE, R_MEMBER, R_OUTCOME, R_TRIES, R_CACHED = 5, 6, 7, 8, 9
R_AFTER = 10  # it, in the queue or among the prompts that were cut
R_FINISH = 11  # tick of the last token
R_LEFT = 12  # prompt tokens that are still to be computed
R_MADE = 13  # tokens of the answer
R_HELD = 14  # tokens in the cache when decoding began
R_JOINED = 15  # tick at which it began
R_ADMISSIONS = 16
R_ORDER = 17  # of the last admission, counted by engine
R_SEGMENT_END = 18  # segments up to here are held
ROW = 19
# World.times. `SPOT` is its prefix's place on the ring, 0..1.
ARRIVAL, SPOT, ADMITTED_AT, FIRST_TOKEN, LAST_TOKEN = 0, 1, 2, 3, 4
TIMES = 5

# World.segment
SEGMENT_TOKENS, SEGMENT_START = 0, 1
# World.node: one a segment and caching engine, then one a request for what only it holds, then each engine's sentinel.
# Nodes nobody uses are a ring through `BEFORE` and `AFTER`, from the sentinel on the least recently used first.
HELD_BLOCKS, USERS, BEFORE, AFTER = 0, 1, 2, 3
NODE = 4

# World.pool, World.member, World.share
FIRST_MEMBER, END_MEMBER, POLICY, POOL_ACTIVE = 0, 1, 2, 3
POOL = 4
M_ENGINE, M_POOL, M_ACTIVE = 0, 1, 2
MEMBER = 3
WEIGHT, UPTO, DEADLINE = 0, 1, 2  # in a pool weights add up to 1; sums of them; for turns by weight
SHARE = 3
MOST_TRIES = 12

# How a request ended.
PENDING, DONE, REFUSED, TOO_LONG = 0, 1, 2, 3


class World(NamedTuple):
    """Columns are numpy arrays, or lists where nothing is compiled."""

    engine: Any
    clock: Any
    ticks: Any  # heaps: when decoding requests finish, soonest first
    who: Any
    finishing: Any  # requests whose prompt ends with the step that runs
    phases: Any  # decoding requests by the tick, modulo the block, at which they need another block
    request: Any
    times: Any
    segments: Any
    segment: Any
    node: Any
    sentinels: int
    own: int  # where requests' nodes begin
    tables: Any  # where the table of a speed begins in `grid`, see speeds.py
    grid: Any
    tries: Any  # pools by kind of request, MOST_TRIES each, then -1
    pool: Any
    member: Any
    share: Any
    most: int  # steps at once, where nothing but decoding goes on
    bound: float  # how far a member may run above its part of the load; 0: any way
