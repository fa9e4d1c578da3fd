"""What the clients of a run see: its requests, made up from means, and the medians of what comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import log, sqrt
from random import Random
from statistics import fmean, median

from llmfleet.planner.speed.request import Request
from llmfleet.planner.speed.run import Client, Room, Run
from llmfleet.planner.speed.steps import Steps

ROUNDS = 10  # requests of each client, as benchmarks have it
REQUESTS = 200  # of a run at a rate
LEAST_REQUESTS, MOST_REQUESTS = 20, 2000
# Requests at a rate are mostly real conversations, whose answers spread as wide as their mean; clients in a loop mostly
# ask for answers of one length, give or take a few.
LONGEST = 4.0  # times the mean
NARROW = 0.1
SEED = 7
# From the socket to the scheduler and back: tokenizing, and the first token's way out.
FRONT_S = 8e-3


@dataclass(frozen=True, slots=True)
class Seen:
    """Seconds, as means over the requests of a run if not said otherwise. Rates are over the whole run."""

    ttft_s: float  # the median
    ttft_mean_s: float
    ttft_tail_s: float
    tpot_s: float
    tpot_tail_s: float
    token_s: float  # between two tokens of an answer, over all of them
    requests_per_s: float
    tokens_per_s: float


def at_concurrency(steps: Steps, request: Request, room: Room, clients: float) -> Seen | None:
    """Clients whose answers end at different times soon come one by one; those that end together come all at once, each
    time. Which of the two a run is nearer to depends on how alike its answers are: TTFT is the geometric mean.
    None when a run takes too long to follow.
    """
    crowd = max(1, round(clients))
    count = min(MOST_REQUESTS, max(LEAST_REQUESTS, ROUNDS * crowd))
    answers = [1 + NARROW * (2 * place - 1) for place in _places(count)]
    apart = _seen(Run(steps, _clients(request, [0.0] * count, answers), room, min(crowd, count)))
    at_once = _seen(Run(steps, _clients(request, [0.0] * min(crowd, count), answers[:crowd]), room, crowd))
    if apart is None or at_once is None:
        return None
    middle, mean = sqrt(apart.ttft_s * at_once.ttft_s), sqrt(apart.ttft_mean_s * at_once.ttft_mean_s)
    return replace(apart, ttft_s=middle, ttft_mean_s=mean)


def at_rate(steps: Steps, request: Request, room: Room, rate: float, count: int = REQUESTS) -> Seen | None:
    """`count` requests at random times; beyond what the instance can do the queue grows until the last has come.

    None when that takes too long to follow.
    """
    arrivals, now = [], 0.0
    for place in _places(count):
        now += -log(1 - place) / rate
        arrivals.append(now)
    answers = [min(LONGEST, -log(1 - place)) for place in reversed(_places(count))]
    mean = fmean(answers)
    return _seen(Run(steps, _clients(request, arrivals, [a / mean for a in answers]), room))


@lru_cache(maxsize=64)
def _places(count: int) -> tuple[float, ...]:
    """Evenly over 0 to 1, in an order that looks random and is always the same: any such run has just these means."""
    places = [(i + 0.5) / count for i in range(count)]
    Random(SEED).shuffle(places)  # noqa: S311  not for secrets
    return tuple(places)


def _clients(request: Request, arrivals: list[float], answers: list[float]) -> list[Client]:
    return [
        Client(i, at, request.input_len, max(1, round(part * request.output_len)))
        for i, (at, part) in enumerate(zip(arrivals, answers, strict=True))
    ]


def _seen(run: Run) -> Seen | None:
    if not run.finished():
        return None
    done = run.clients
    firsts = sorted(c.ttft_s for c in done)
    tokens = sorted(c.tpot_s for c in done if c.answer > 1) or [0.0]
    rare = int(0.95 * len(done))
    later = sum(c.answer - 1 for c in done)
    return Seen(
        ttft_s=FRONT_S + median(firsts),
        ttft_mean_s=FRONT_S + fmean(firsts),
        ttft_tail_s=FRONT_S + firsts[min(rare, len(firsts) - 1)],
        tpot_s=fmean(tokens),
        tpot_tail_s=tokens[min(int(0.95 * len(tokens)), len(tokens) - 1)],
        token_s=sum(c.last_s - c.first_s for c in done) / later if later else 0.0,
        requests_per_s=len(done) / run.now,
        tokens_per_s=sum(c.answer for c in done) / run.now,
    )
