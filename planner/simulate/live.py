"""The simulated engine as something to ask while time passes: requests come in, each step says which tokens are out.

The same functions as in a simulated run, one step at a time, on columns that grow. A block of a prompt is a segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmfleet.planner.simulate.arrays import (
    ACTIVE,
    AFTER,
    BEFORE,
    BLOCK,
    BLOCKS,
    BUSY,
    CAP,
    CHUNK,
    CLOCKS,
    DONE,
    ENDS,
    EVICTABLE,
    FIRST_WAITING,
    FREE,
    HEAP,
    HELD_BLOCKS,
    HIT_TOKENS,
    KV_TIME,
    LONGEST,
    NEVER,
    NODE,
    NODES,
    PARTIAL,
    PREEMPTED,
    PROMPT_TOKENS,
    R_ANSWER,
    R_CACHED,
    R_ENGINE,
    R_JOINED,
    R_MADE,
    R_MEMBER,
    R_OUTCOME,
    R_PROMPT,
    R_SEGMENTS,
    R_SEGMENTS_END,
    ROW,
    RUNNING,
    RUNNING_TIME,
    SEQS,
    SLOWER,
    THRESHOLD,
    TICK,
    TIMES,
    UNLIMITED,
    WAITING,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.engine import drop_waiting, end_early, finish_step, start_step, submit

if TYPE_CHECKING:
    from llmfleet.planner.simulate.fleet import Engine


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that an engine's process needs to know. `blocks` 0: nothing is cached. `grid`: see speeds.py."""

    seqs: int
    chunk: int
    block: int
    blocks: int
    longest: int
    cap: int
    grid: tuple[float, ...]
    threshold: int = 0  # prompt tokens of one request in a step while others are there; 0: no limit


def spec_of(engine: Engine, grid: Sequence[float]) -> EngineSpec:
    """`grid`: of its pace."""
    pace, instance = engine.pace, engine.instance
    return EngineSpec(
        pace.seqs, pace.chunk, engine.block, engine.blocks, engine.longest, instance.max_concurrency, tuple(grid),
        instance.long_prefill_token_threshold,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """The n-th token of a request's answer is out; `done`: it was the last."""

    request: int
    n: int
    done: bool


class LiveEngine:
    """Times are seconds of the caller's clock, which only has to go forward."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        most = spec.longest // spec.block if spec.blocks else 0
        self._segments = spec.blocks + spec.cap * most
        state, clock = [0] * WIDTH, [0.0] * CLOCKS
        blocks = spec.blocks or UNLIMITED
        for field, value in (
            (SEQS, spec.seqs), (CHUNK, spec.chunk), (BLOCK, spec.block), (BLOCKS, blocks), (FREE, blocks),
            (LONGEST, spec.longest), (CAP, spec.cap), (NODES, 0 if spec.blocks else -1), (FIRST_WAITING, -1),
            (PARTIAL, -1), (THRESHOLD, spec.threshold or UNLIMITED),
        ):  # fmt: skip
            state[field] = value
        clock[ENDS], clock[SLOWER] = NEVER, 1.0
        self._world = World(
            engine=state, clock=clock, ticks=[0] * spec.seqs, who=[0] * spec.seqs, finishing=[0] * spec.seqs,
            phases=[0] * spec.block, request=[], times=[], segments={}, segment=[0] * (2 * self._segments),
            node=[0] * (NODE * (self._segments + 1)), sentinels=self._segments, own=self._segments + 1,
            tables=[0], grid=list(spec.grid), tries=[], pool=[], member=[], share=[], most=1, bound=0.0,
        )  # fmt: skip
        for side in (BEFORE, AFTER):
            self._world.node[self._segments * NODE + side] = self._segments
        self._numbers: dict[int, int] = {}  # of segments, by the hash of the block and all before it
        self._hashes: dict[int, int] = {}
        self._free = deque(range(self._segments))
        self._queued: dict[int, int] = {}  # requests that name a segment and have not ended
        self._made: dict[int, int] = {}  # tokens told of, by request under way
        self._ended: deque[int] = deque()

    @property
    def ends(self) -> float:
        """When the step under way ends; infinite while there is nothing to do."""
        return float(self._world.clock[ENDS])

    @property
    def full(self) -> bool:
        return bool(self._world.engine[ACTIVE] >= self.spec.cap)

    def slow_down(self, factor: float) -> None:
        """Steps that begin from now on take so many times as long as the model says."""
        self._world.clock[SLOWER] = factor

    def submit(self, hashes: Sequence[int], prompt: int, answer: int, now: float) -> int:
        """`hashes` of the prompt's whole blocks, each together with all before it. Returns the request's number."""
        r = self._row()
        first = r * (self._segments + 1)
        kept = hashes if self.spec.blocks else ()
        for place, block_hash in enumerate(kept):
            number = self._number(block_hash, place)
            self._world.segments[first + place] = number
            self._queued[number] = self._queued.get(number, 0) + 1
        row = [0] * ROW
        for field, value in (
            (R_PROMPT, prompt), (R_ANSWER, max(1, answer)), (R_SEGMENTS, first), (R_SEGMENTS_END, first + len(kept)),
            (R_ENGINE, 0), (R_MEMBER, -1),
        ):  # fmt: skip
            row[field] = value
        self._world.request[r * ROW : (r + 1) * ROW] = row
        self._made[r] = 0
        submit(self._world, 0, r, now)
        return r

    def step(self) -> list[Token]:
        """Ends the step under way, begins the next one, and says what came out."""
        world, now = self._world, self.ends
        finish_step(world, 0)
        tick, request = world.engine[TICK], world.request
        out = []
        for r, told in list(self._made.items()):
            done = request[r * ROW + R_OUTCOME] == DONE
            made = request[r * ROW + R_MADE]
            if not done and made and request[r * ROW + R_JOINED] >= 0:  # it decodes
                made += tick - request[r * ROW + R_JOINED]
            out += [Token(r, n, done and n == made) for n in range(told + 1, made + 1)]
            self._made[r] = made
            if done:
                self._forget(r)
        start_step(world, 0, now)
        return out

    def cached(self, r: int) -> int:
        """Prompt tokens that the cache had."""
        return int(self._world.request[r * ROW + R_CACHED])

    def abort(self, r: int) -> None:
        """Nobody waits for the answer any more."""
        if r not in self._made:
            return
        if drop_waiting(self._world, 0, r):
            self._forget(r)
        else:
            end_early(self._world, 0, r)

    def figures(self) -> dict[str, float]:
        """For a page of metrics."""
        e, clock = self._world.engine, self._world.clock
        held = e[BLOCKS] - e[FREE] - e[EVICTABLE]
        return {
            "running": e[RUNNING], "waiting": e[WAITING], "kv_usage": held / e[BLOCKS], "preemptions": e[PREEMPTED],
            "running_s": clock[RUNNING_TIME], "busy_s": clock[BUSY], "kv_block_s": clock[KV_TIME],
            "prefix_queries": e[PROMPT_TOKENS], "prefix_hits": e[HIT_TOKENS], "decoding": e[HEAP],
        }  # fmt: skip

    def _forget(self, r: int) -> None:
        world = self._world
        for i in range(world.request[r * ROW + R_SEGMENTS], world.request[r * ROW + R_SEGMENTS_END]):
            number = world.segments.pop(i)
            self._queued[number] -= 1
            if not self._queued[number]:
                del self._queued[number]
        del self._made[r]
        self._ended.append(r)

    def _row(self) -> int:
        """A number for a request: that of an ended one whose blocks are gone from the cache, or a new one."""
        world = self._world
        for _ in range(min(8, len(self._ended))):
            r = self._ended.popleft()
            if not world.node[(world.own + r) * NODE + HELD_BLOCKS]:
                return r
            self._ended.append(r)
        r = len(world.request) // ROW
        world.request.extend([0] * ROW)
        world.times.extend([0.0] * TIMES)
        world.node.extend([0] * NODE)
        return r

    def _number(self, block_hash: int, place: int) -> int:
        known = self._numbers.get(block_hash)
        if known is not None:
            return known
        number = self._free.popleft()
        while self._queued.get(number) or self._world.node[number * NODE + HELD_BLOCKS]:
            self._free.append(number)  # in use: its turn comes again
            number = self._free.popleft()
        self._free.append(number)
        if number in self._hashes:
            self._numbers.pop(self._hashes[number])
        self._numbers[block_hash], self._hashes[number] = number, block_hash
        self._world.segment[2 * number : 2 * number + 2] = [self.spec.block, place * self.spec.block]
        return number
