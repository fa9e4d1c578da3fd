"""A pipeline step by step: what a formula of means does not see is how parts of a batch catch up with one another."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmfleet.planner.candidates.candidate import Candidate
    from llmfleet.planner.pipelines.steps import ChainSteps
    from llmfleet.planner.speed.request import Request

TOGETHER = 128  # sequences of one step at most: the engine keeps several batches under way, which do not merge
FULL = 0.8  # of the cache in use, on average: requests of random lengths never fill it
MOST_TURNS = 6_000


def simulated_rate(candidate: Candidate) -> float:
    """Requests/s of the commonest kind, closed loop, with as many at once as the cache holds."""
    from llmfleet.planner.pipelines.steps import ChainSteps

    bucket = max((b for b in candidate.demand.buckets if b.name in candidate.ratings), key=lambda b: b.part)
    most = candidate.most_sequences(bucket.request)
    if not isinstance(candidate.steps, ChainSteps):
        return candidate.ratings[bucket.name].best_effort.rate
    return closed_loop(candidate.steps, bucket.request, max(1, int(FULL * most)))


def closed_loop(steps: ChainSteps, request: Request, clients: int) -> float:
    """Answers a second when so many clients ask again at once. Each stage takes all that waits for it, as it comes."""
    line = _Stages(steps, request, clients)
    return line.run()


class _Stages:
    """Requests are numbers of tokens that they still want; a new one has its prompt to do first."""

    def __init__(self, steps: ChainSteps, request: Request, clients: int) -> None:
        self.steps, self.request = steps, request
        self.count = len(steps.stages)
        self.random = Random(1)  # noqa: S311 - the same run every time
        self.queues: list[list[tuple[int, bool]]] = [[] for _ in range(self.count)]
        self.busy = [False] * self.count
        self.events: list[tuple[float, int, int, list[tuple[int, bool]]]] = []
        self.number = 0
        self.hops = steps.hop_s
        self.prompts = max(1, round(steps.chunk / max(1.0, request.new)))
        self.turns: dict[tuple[int, int, int], float] = {}
        # As if they had been under way for long: each somewhere in its answer.
        under_way = [(1 + self.random.randrange(max(1, round(request.output_len))), False) for _ in range(clients)]
        for i, one in enumerate(under_way):
            self.queues[i * self.count // clients].append(one)

    def run(self) -> float:
        now, made = 0.0, 0
        for stage in range(self.count):
            self._start(now, stage)
        lap = None
        for turn in range(MOST_TURNS):
            now, _, stage, batch = heappop(self.events)
            self.busy[stage] = False
            if stage == self.count - 1:
                made += len(batch)
                batch = [self._next(one) for one in batch]
            after = (stage + 1) % self.count
            self.queues[after] += batch
            self._start(now, after)
            self._start(now, stage)
            if lap is None and turn >= MOST_TURNS // 4:
                lap, made = now, 0
        span = now - (lap or 0.0)
        return made / max(1.0, self.request.output_len) / span if span > 0 else 0.0

    def _next(self, one: tuple[int, bool]) -> tuple[int, bool]:
        left, _ = one
        if left > 1:
            return left - 1, False
        mean = max(1.0, self.request.output_len)
        return max(1, round(self.random.expovariate(1 / mean))), True

    def _start(self, now: float, stage: int) -> None:
        if self.busy[stage] or not self.queues[stage]:
            return
        batch, self.queues[stage], self.busy[stage] = *self._taken(self.queues[stage]), True
        prompts = sum(new for _, new in batch)
        self.number += 1
        heappush(self.events, (now + self._seconds(stage, len(batch), prompts), self.number, stage, batch))

    def _taken(self, queue: list[tuple[int, bool]]) -> tuple[list[tuple[int, bool]], list[tuple[int, bool]]]:
        """What goes into one step, and what has to wait: more than a step carries."""
        new, old = [one for one in queue if one[1]], [one for one in queue if not one[1]]
        return old[:TOGETHER] + new[: self.prompts], old[TOGETHER:] + new[self.prompts :]

    def _seconds(self, stage: int, sequences: int, prompts: int) -> float:
        share, own = self.steps.stages[stage]
        key = (id(own), sequences, prompts)
        if key not in self.turns:
            new = prompts * self.request.new
            attention = prompts * own.prompt_attention_s(self.request.new, self.request.cached)
            self.turns[key] = own.step_s(float(sequences), self.request.context, new) + attention
        return share * self.turns[key] + self.hops
