"""From a target to figures: a first look, warm-up, repeats with their spread, and the search for the knee."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import median

from llmfleet.launch.bench.client import Address, Client
from llmfleet.launch.bench.figures import Figures, Limits, figures
from llmfleet.launch.bench.load import Run, closed, opened
from llmfleet.launch.bench.prompts import Prompts, Shape
from llmfleet.launch.bench.stream import Sample
from llmfleet.planner.errors import HealthError, InputError

PROBE_BYTES = 1200
THE_SLO = "the SLO"  # what bounds a knee that says something of the engine
KNEE_STEPS = 6
KNEE_WIDTH = 1.08  # the knee is known to this factor
ALONE = 10  # requests, one after the other
LEAST_SECONDS = 8.0  # of one step of the search


@dataclass(frozen=True, slots=True)
class Target:
    """One address that is measured: an instance, or the fleet behind its router."""

    name: str
    where: Address
    model: str
    task: str
    key: str | None = None  # of a client, where the router asks for one

    def client(self, timeout_s: float = 600.0) -> Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return Client(self.where, headers, timeout_s)


@dataclass(frozen=True, slots=True)
class Load:
    """`users` in a closed loop, or `rate` requests/s at random times, or `arrivals` in seconds from the start."""

    users: int | None = None
    rate: float | None = None
    arrivals: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is measured. `requests` of each repeat; `warm`: requests before it that are not counted."""

    shape: Shape
    limits: Limits
    requests: int = 200
    warm: int = 8
    repeats: int = 1
    seed: int = 0
    text: str | None = None
    stream: bool = True
    lengths: tuple[tuple[int, int, tuple[int, ...]], ...] = ()  # of a trace's requests, with `arrivals`


@dataclass(frozen=True, slots=True)
class Measured:
    """Of several repeats the one with the median TPOT (or TTFT); `spread`: (highest - lowest) / median over them."""

    target: str
    model: str
    task: str
    figures: Figures
    spread: dict[str, float]
    runs: tuple[Figures, ...]


@dataclass(frozen=True, slots=True)
class Knee:
    """`rate_rps` is the highest load inside the limits; `points` is every load tried, by rate."""

    target: str
    rate_rps: float
    bounded_by: str
    points: tuple[Figures, ...]


Progress = Callable[[str, int, int, Sample | None], None]


class Bench:
    """Measures one target. Prompts are made before the clock starts."""

    def __init__(self, target: Target, plan: Plan, progress: Progress) -> None:
        self._target, self._plan, self._progress = target, plan, progress
        self._bytes_a_token = 4.0
        self._round = 0

    def look(self) -> float:
        """One request of known size: is somebody there, and how many bytes is a token? Raises HealthError."""
        prompts = self._prompts(4.0)
        body = prompts.body(next(iter(Prompts("", "generate", Shape(PROBE_BYTES / 4), 1))).decode()[-PROBE_BYTES:], 2)
        client = self._target.client(timeout_s=120.0)
        sample = asyncio.run(_one(client, client.request(prompts.path, body)))
        if not sample.ok:
            raise HealthError(
                f"{self._target.name} at {self._target.where.url} does not answer: {sample.error}",
                hint="llmfleet status shows what runs; --url measures any other address",
            )
        if sample.prompt:
            self._bytes_a_token = PROBE_BYTES / sample.prompt
        return self._bytes_a_token

    def measure(self, load: Load) -> Measured:
        self._warm_up()
        runs = tuple(self._once(load) for _ in range(self._plan.repeats))
        by = "tpot_ms" if runs[0].tpot_ms else "ttft_ms"
        middle = sorted(runs, key=lambda f: getattr(f, by).get("p50", 0.0))[len(runs) // 2]
        return Measured(self._target.name, self._target.model, self._target.task, middle, _spread(runs), runs)

    def knee(self, start: float) -> Knee:
        """Doubles or halves the rate until it knows one inside and one outside, then cuts the distance between them."""
        self._warm_up()
        alone = self._alone()
        if alone.attained * 100 < self._plan.limits.percentile:
            return Knee(self._target.name, 0.0, f"{THE_SLO}, which a request alone misses", (alone,))
        tried: list[tuple[float, Figures]] = []
        inside, outside, rate = 0.0, None, start
        for _ in range(2 * KNEE_STEPS):
            got = self._at_rate(rate)
            tried.append((rate, got))
            if got.client_limited and got.attained * 100 >= self._plan.limits.percentile:
                return Knee(self._target.name, inside, f"the client: {got.client_limited}", _points(tried))
            if got.attained * 100 >= self._plan.limits.percentile:
                inside = max(inside, rate)
            else:
                outside = min(outside, rate) if outside is not None else rate
            if outside is None:
                rate = inside * 2
            elif inside == 0:
                rate = outside / 2
            elif outside / inside <= KNEE_WIDTH:
                break
            else:
                rate = (inside * outside) ** 0.5
        return Knee(self._target.name, inside, THE_SLO if outside is not None else "nothing yet", _points(tried))

    def _alone(self) -> Figures:
        return self._once(Load(users=1), ALONE)

    def _at_rate(self, rate: float) -> Figures:
        """At least some seconds and some dozens of requests, since a queue takes a while to grow."""
        count = max(self._plan.requests, round(rate * LEAST_SECONDS))
        return self._once(Load(rate=rate), count)

    def _warm_up(self) -> None:
        if self._plan.warm:
            self._go(Load(users=max(1, self._plan.warm // 4)), self._plan.warm, "warm-up")

    def _once(self, load: Load, count: int | None = None) -> Figures:
        many = count or (len(load.arrivals) if load.arrivals else self._plan.requests)
        return figures(self._go(load, many, label(load)), self._plan.limits)

    def _go(self, load: Load, count: int, name: str) -> Run:
        client = self._target.client()
        self._round += 1
        prompts = self._prompts(self._bytes_a_token)
        bodies = prompts.sized(self._plan.lengths) if self._plan.lengths and load.arrivals else iter(prompts)
        requests = [client.request(prompts.path, body) for body in islice(bodies, count)]
        ended = 0

        def heard(sample: Sample) -> None:
            nonlocal ended
            ended += 1
            self._progress(name, ended, count, sample)

        self._progress(name, 0, count, None)
        if load.users is not None:
            return closed(client, cycle(requests), load.users, count, heard)
        if not load.rate and not load.arrivals:
            raise InputError("a load needs users, a rate or a trace")
        arrivals = load.arrivals or _random_times(load.rate or 1.0, count, self._plan.seed + self._round)
        return opened(client, iter(requests), arrivals, heard)

    def _prompts(self, bytes_a_token: float) -> Prompts:
        plan, target = self._plan, self._target
        return Prompts(
            target.model, target.task, plan.shape, plan.seed * 1000 + self._round, bytes_a_token=bytes_a_token,
            text=plan.text, stream=plan.stream,
        )  # fmt: skip


def label(load: Load) -> str:
    if load.users is not None:
        return f"{load.users} user{'s' * (load.users != 1)}"
    return f"{load.rate:.3g} requests/s" if load.rate else "trace"


async def _one(client: Client, request: bytes) -> Sample:
    try:
        return await client.ask(request)
    finally:
        client.close()


def _random_times(rate: float, count: int, seed: int) -> tuple[float, ...]:
    chance, at, times = random.Random(seed), 0.0, []  # noqa: S311
    for _ in range(count):
        times.append(at)
        at += chance.expovariate(rate)
    return tuple(times)


def _spread(runs: Sequence[Figures]) -> dict[str, float]:
    if len(runs) < 2:
        return {}
    found = {}
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        values = [value for f in runs if (value := getattr(f, name).get("p50"))]
        if values:
            found[name] = round((max(values) - min(values)) / median(values), 4)
    rates = [f.output_tokens_per_s or f.requests_per_s for f in runs]
    found["throughput"] = round((max(rates) - min(rates)) / median(rates), 4) if median(rates) else 0.0
    return found


def _points(tried: Iterable[tuple[float, Figures]]) -> tuple[Figures, ...]:
    return tuple(replace(f, rate_rps=rate) for rate, f in sorted(tried, key=lambda pair: pair[0]))
