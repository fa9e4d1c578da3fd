"""A benchmark run against one instance, step by step: what its clients see from the first request to the last answer.

The steady state (batching.py) is what a plan needs. What a measurement prints also has the start, when all clients come
at once, the queue that grows as long as a run goes on beyond saturation, and the end, when few are left. One step of
the engine carries a token for each running sequence and, as long as room in the KV cache and tokens of the step allow,
parts of prompts; a sequence that finds the cache full gives way and is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil, inf

from llmfleet.planner.speed.steps import Steps

MOST_TURNS = 40_000  # half a second of work


@dataclass(slots=True)
class Client:
    """One request: seconds, and tokens that are still to be done."""

    number: int
    arrival_s: float
    prompt: float
    answer: int
    left: float = 0.0  # of the prompt
    held: float = 0.0  # tokens in the cache
    first_s: float = -1.0
    last_s: float = -1.0
    ends: int = -1  # the step that yields its last token
    todo: int = 0

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        return (self.last_s - self.first_s) / max(1, self.answer - 1)


@dataclass(frozen=True, slots=True)
class Room:
    """What may run at once: tokens of KV cache and sequences. `hit`: part of each prompt that is cached."""

    tokens: float = inf
    sequences: float = inf
    hit: float = 0.0


@dataclass(slots=True)
class Run:
    """`clients` in the order in which they come; `crowd`: as many at once, each next one when one is answered."""

    steps: Steps
    clients: Sequence[Client]
    room: Room
    crowd: int | None = None
    now: float = 0.0
    step: int = 0
    running: int = 0
    context: float = 0.0  # tokens of all running sequences
    used: float = 0.0  # of the cache
    coming: int = 0
    waiting: deque[Client] = field(default_factory=deque)
    ends: list[tuple[int, int, Client]] = field(default_factory=list)
    latest: list[Client] = field(default_factory=list)  # running, the last to start at the end

    def finished(self) -> bool:
        """Runs it; False when it is not over within MOST_TURNS, as with prompts of a million tokens."""
        for _ in range(min(self.crowd or 0, len(self.clients))):
            self._next()
        for _ in range(MOST_TURNS):
            if not self.running and not self.waiting and self.coming >= len(self.clients):
                return True
            self._arrivals()
            if not self.running and not self.waiting:
                self.now = self.clients[self.coming].arrival_s
                continue
            prompts = self._prompts()
            if prompts:
                self._mixed_step(prompts)
            else:
                self._plain_steps()
            self._answers()
        return False

    def _next(self) -> None:
        if self.coming < len(self.clients):
            client = self.clients[self.coming]
            if self.crowd is not None:
                client.arrival_s = self.now
            client.left, client.todo = client.prompt * (1 - self.room.hit), client.answer
            self.waiting.append(client)
            self.coming += 1

    def _arrivals(self) -> None:
        if self.crowd is None:
            while self.coming < len(self.clients) and self.clients[self.coming].arrival_s <= self.now:
                self._next()

    def _prompts(self) -> list[tuple[Client, float]]:
        """Parts of prompts for the next step, first come, first served."""
        parts: list[tuple[Client, float]] = []
        free = float(self.steps.chunk - self.running)
        started = self.running
        for client in self.waiting:
            if free < 1 or started >= self.room.sequences:
                break
            if not client.held and self.used + client.prompt > self.room.tokens and (started or parts):
                break
            if not client.held:
                client.held = client.prompt
                self.used += client.prompt
            part = min(free, client.left)
            parts.append((client, part))
            free -= part
            started += 1
        return parts

    def _mixed_step(self, parts: list[tuple[Client, float]]) -> None:
        tokens = sum(part for _, part in parts)
        seconds = self.steps.step_s(self.running, self.context / max(1, self.running), tokens)
        for client, part in parts:
            done = client.prompt - client.left
            seconds += self.steps.prompt_attention_s(part, done) / self.steps.hardware.pp
            client.left -= part
        self._advance(1, seconds)
        while self.waiting and self.waiting[0].held and self.waiting[0].left <= 0:
            self._start(self.waiting.popleft())

    def _start(self, client: Client) -> None:
        if client.first_s < 0:
            client.first_s = self.now
        client.todo -= 1
        client.ends = self.step + client.todo
        self.running += 1
        self.context += client.held
        self.latest.append(client)
        heappush(self.ends, (client.ends, client.number, client))

    def _plain_steps(self) -> None:
        """As many as nothing changes in."""
        self._make_room()
        count = max(1, self.ends[0][0] - self.step)
        if self.running:
            count = int(min(count, max(1.0, (self.room.tokens - self.used) // self.running)))
        seconds = self.steps.step_s(self.running, self.context / self.running + count / 2)
        if self.crowd is None and self.coming < len(self.clients):
            count = min(count, max(1, ceil((self.clients[self.coming].arrival_s - self.now) / seconds)))
        self._advance(count, count * seconds)

    def _make_room(self) -> None:
        """The sequence that started last gives way, and is computed again from its prompt and what it has answered."""
        while self.running > 1 and self.used + self.running > self.room.tokens:
            client = self.latest.pop()
            if client.ends < self.step or client.last_s >= 0:
                continue
            done = client.held + self._grown(client)
            self.running -= 1
            self.context -= done
            self.used -= done
            client.todo = client.ends - self.step
            client.prompt = client.left = done
            client.held, client.ends = 0.0, -1
            self.waiting.appendleft(client)

    def _grown(self, client: Client) -> float:
        """Tokens of its answer since it started, this time."""
        return float(client.todo - (client.ends - self.step))

    def _advance(self, steps: int, seconds: float) -> None:
        self.now += seconds
        self.step += steps
        self.context += steps * self.running
        self.used += steps * self.running

    def _answers(self) -> None:
        while self.ends and self.ends[0][0] <= self.step:
            ends, _, client = heappop(self.ends)
            if client.ends != ends or client.last_s >= 0:
                continue  # it gave way in between
            client.last_s = self.now
            held = client.held + client.todo
            self.running -= 1
            self.context -= held
            self.used -= held
            if self.crowd is not None:
                self._next()
