"""TTFT, TPOT and throughput of each kind of instance against its load: what a plan's figures are single points of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

from llmfleet.planner.assemble import Facts
from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.plan import Plan
from llmfleet.planner.speed.batching import Batching, Steady

POINTS: Final = 48
BARELY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """At `rate` requests/s to one instance. Seconds; tails at the SLO's percentile. `tokens_s`: output tokens/s, of
    embed and rerank those of the input."""

    rate: float
    ttft_s: float
    ttft_tail_s: float
    tpot_s: float
    tpot_tail_s: float
    tokens_s: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One kind of instance under its own mix of requests, from nearly idle to saturated.

    `planned` is its share of the peak, `capacity` the most it takes inside the SLO (None: never inside it).
    `ttft_limit_s`, `tpot_limit_s`: None without a limit.
    """

    service: str
    instances: tuple[str, ...]
    points: tuple[Point, ...]
    planned: Point | None
    capacity: Point | None
    ttft_limit_s: float | None
    tpot_limit_s: float | None
    percentile: float


def curves(decision: Decision, plan: Plan) -> tuple[Curve, ...]:
    """One a kind, in the order of the plan's instances. `plan` is the one made from this decision."""
    ids: dict[Candidate, list[str]] = {}
    for placed, instance in zip(decision.placed, plan.instances, strict=True):
        ids.setdefault(placed.candidate, []).append(instance.id)
    return tuple(_curve(Facts(decision, c), c, tuple(names)) for c, names in ids.items())


def _curve(facts: Facts, candidate: Candidate, instances: tuple[str, ...]) -> Curve:
    limits, batching = facts.mix.limits, facts.batching
    top = batching.at_best().rate
    rates = [top * (i + 1) / POINTS for i in range(POINTS)]
    inside = batching.capacity()
    planned = min(facts.rate, top)
    return Curve(
        service=candidate.service,
        instances=instances,
        points=tuple(_point(batching, batching.at_rate(rate)) for rate in rates),
        planned=_point(batching, batching.at_rate(planned), planned) if planned > BARELY else None,
        capacity=_point(batching, inside) if inside.rate > BARELY else None,
        ttft_limit_s=limits.ttft_s if isfinite(limits.ttft_s) else None,
        tpot_limit_s=limits.tpot_s if isfinite(limits.tpot_s) and batching.request.output_len else None,
        percentile=limits.percentile,
    )


def _point(batching: Batching, steady: Steady, rate: float | None = None) -> Point:
    """`rate`: where bisection's last digits would show."""
    steady = replace(steady, rate=rate or steady.rate)
    tokens = batching.request.output_len or batching.request.input_len
    return Point(
        rate=steady.rate,
        ttft_s=steady.ttft_s,
        ttft_tail_s=steady.ttft_tail_s,
        tpot_s=steady.tpot_s,
        tpot_tail_s=steady.tpot_tail_s,
        tokens_s=steady.rate * tokens,
    )
