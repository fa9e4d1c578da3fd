"""Continuous batching in its steady state: a running batch, the requests a second it finishes, what each of them sees.

With B sequences decoding, a request of O output tokens takes O steps, and in that time every other sequence of the
batch is replaced once: B/O prompts start in a step, on average. So a part of the steps carries prompt tokens too, and
TPOT is the mean of both kinds of step; rate = B / (O·TPOT). Concurrency and rate are found from B by bisection.

Of a fixed number of clients each request decodes among B. One that arrives at random finds the mean batch at work
(Poisson arrivals see time averages: Wolff 1982) and joins it: its steps are those of B + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, log, sqrt

from llmfleet.planner.speed.request import Limits, Request
from llmfleet.planner.speed.steps import Steps

SATURATED = 0.98  # part of its time that prefill alone may fill
ROUNDS = 20  # to a millionth of the range


@dataclass(frozen=True, slots=True)
class Steady:
    """`batch`: mean sequences decoding at once. Seconds; `rate` in requests/s; `busy`: part of the time in prefill."""

    batch: float
    rate: float
    ttft_s: float
    ttft_tail_s: float  # at the limits' percentile
    tpot_s: float
    tpot_tail_s: float
    busy: float


@dataclass(frozen=True, slots=True)
class Batching:
    """One instance under one kind of request. `most`: sequences that can decode at once.

    The prompt's seconds are worked out once, by `batching`.
    """

    steps: Steps
    request: Request
    most: float
    limits: Limits
    occupancy_s: float
    prefill_s: float
    prefill_tail_s: float  # of a prompt at the limits' percentile
    attention_s: float  # of a prompt's tokens to what is before them
    unequal: float = 1.0  # mean square over squared mean of the prompts' lengths

    def at_concurrency(self, clients: float) -> Steady:
        """Clients that each wait for their answer before they ask again."""
        if not self.request.output_len:
            top = SATURATED / self.occupancy_s
            return self._prefill_only(min(top, clients / self.prefill_s), clients)
        batch = _largest(lambda b: self._clients(self._at(b)) <= clients, min(clients, self.most))
        steady = self._at(batch)
        wait = max(0.0, clients - self.most) / steady.rate
        return replace(steady, ttft_s=steady.ttft_s + wait, ttft_tail_s=steady.ttft_tail_s + wait)

    def at_rate(self, rate: float) -> Steady:
        """Requests that arrive at random, whatever the state of the instance. Above saturation: the saturated state."""
        if not self.request.output_len:
            return self._prefill_only(min(rate, SATURATED / self.occupancy_s))
        return self._joined(_largest(lambda b: b / self._answer_s(b) <= rate, self.most))

    def capacity(self) -> Steady:
        """The highest rate of random arrivals that stays inside the limits; rate 0 when not even one request does.

        A busy moment decides, in which far more than one request is beyond the mean.
        """
        if not self.request.output_len:
            top = SATURATED / self.occupancy_s
            return self._prefill_only(_largest(lambda r: self._inside(self._prefill_only(r)), top))
        return self._at(_largest(lambda b: self._inside(self._at(b)), self.most))

    def at_best(self) -> Steady:
        """The highest rate, whatever it does to latency."""
        return self._at(self.most) if self.request.output_len else self._prefill_only(SATURATED / self.occupancy_s)

    def idle(self) -> Steady:
        """What a single request sees on an idle instance."""
        return self._at(0.0) if self.request.output_len else self._prefill_only(0.0)

    def _inside(self, steady: Steady) -> bool:
        return steady.ttft_tail_s <= self.limits.ttft_s and steady.tpot_tail_s <= self.limits.tpot_s

    def _clients(self, steady: Steady) -> float:
        """Requests under way: those that decode and those that wait for their first token."""
        return steady.batch + steady.rate * steady.ttft_s

    def _answer_s(self, batch: float) -> float:
        """How long a request decodes that arrives at random."""
        return self.request.output_len * self._tpot_s(batch, min(self.most, batch + 1))

    def _joined(self, batch: float) -> Steady:
        """Random arrivals."""
        return self._at(batch, 1.0)

    def _at(self, batch: float, own: float = 0.0) -> Steady:
        """`own`: what a request adds to the mean batch, which it decodes among."""
        step, tpot = self._step_s(batch), self._tpot_s(batch, min(self.most, batch + own))
        rate = batch / (self.request.output_len * tpot)
        swollen = batch + self.limits.z * sqrt(batch)  # a busy moment: arrivals are random
        mean, tail = self._prompt_queue_s(rate)
        place = max(0.0, swollen - self.most) / rate if rate else 0.0  # waiting for room in the KV cache
        under_way = min(1.0, batch) * step / 2  # the step that a request finds running
        beside = self.steps.chunks(self.request.new) * (step - self._step_s(0.0))  # answers in the prompt's own steps
        worst = max(tail + self.prefill_s, mean + self.prefill_tail_s)
        return Steady(
            batch=batch,
            rate=rate,
            ttft_s=mean + self.prefill_s + under_way + beside,
            ttft_tail_s=worst + 2 * under_way + beside + place,
            tpot_s=tpot,
            tpot_tail_s=self._tpot_s(min(self.most, swollen), min(self.most, swollen + own)),
            busy=rate * self.occupancy_s,
        )

    def _tpot_s(self, batch: float, among: float) -> float:
        """Of a request that decodes among so many, itself included, while prompts come as `batch` needs them."""
        prompts = batch / self.request.output_len  # that start during one step, on average
        mixed = min(1.0, prompts * self.steps.chunks(self.request.new))  # part of the steps that carry prompt tokens
        carried = prompts * self.request.new / mixed if mixed else 0.0  # by each of those
        plain, full = self._step_s(among), self._step_s(among, carried)
        return (1 - mixed) * plain + mixed * full + prompts * self.attention_s

    def _step_s(self, batch: float, prompt: float = 0.0) -> float:
        return self.steps.step_s(max(batch, 1.0), self.request.context, prompt)

    def _prefill_only(self, rate: float, clients: float = inf) -> Steady:
        mean, tail = self._prompt_queue_s(rate)
        queued = mean + self.prefill_s
        ttft = min(queued, max(self.prefill_s, clients / rate)) if rate else queued
        busy = rate * self.occupancy_s
        return Steady(busy, rate, ttft, max(tail + self.prefill_s, mean + self.prefill_tail_s), 0.0, 0.0, busy)

    def _prompt_queue_s(self, rate: float) -> tuple[float, float]:
        """Mean wait for earlier prompts and its tail: M/G/1 (Pollaczek-Khinchine), exponential beyond the mean."""
        busy = min(rate * self.occupancy_s, SATURATED)
        if busy <= 0:
            return 0.0, 0.0
        mean = busy * self.occupancy_s * self.unequal / (2 * (1 - busy))
        rare = 1 - self.limits.percentile / 100
        return mean, max(mean, log(busy / rare) * mean / busy if busy > rare else 0.0)


def batching(steps: Steps, request: Request, most: float, limits: Limits | None = None) -> Batching:
    """`most`: sequences that KV cache and max_num_seqs allow at once.

    No more decode than are replaced by prompts when every step is filled with them: then prefill is what limits.
    """
    filled = steps.chunk * request.output_len / request.new if request.new else most
    most = min(most, filled) if request.output_len else most
    tail = max(request.tail_len, request.input_len)
    hit = request.prefix_hit
    return Batching(
        steps=steps,
        request=request,
        most=most,
        limits=limits or Limits(),
        occupancy_s=steps.prefill_occupancy_s(request.new, request.cached),
        prefill_s=steps.prefill_s(request.new, request.cached),
        prefill_tail_s=steps.prefill_s(tail * (1 - hit), tail * hit),
        attention_s=steps.prompt_attention_s(request.new, request.cached) / steps.hardware.pp,
        unequal=request.unequally((limits or Limits()).z),
    )


def _largest(holds: Callable[[float], bool], top: float) -> float:
    """The largest value up to `top` for which a property holds that is lost only once; 0 when it never holds."""
    if holds(top):
        return top
    low, high = 0.0, top
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
