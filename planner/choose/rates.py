"""What single instances take, by kind of request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Bucket, Demand

SMALLEST = 1e-9
UNASKED = 0.1
Rates = Mapping[Candidate, Mapping[str, float]]


def inside(members: Iterable[Candidate]) -> Rates:
    """Requests/s within the SLO."""
    return {c: {n: r.inside.rate for n, r in c.ratings.items() if r.inside.rate > SMALLEST} for c in members}


def at_best(members: Iterable[Candidate]) -> Rates:
    """Requests/s at all."""
    return {c: {n: r.best_effort.rate for n, r in c.ratings.items() if r.best_effort.rate > SMALLEST} for c in members}


def capacities(members: Iterable[Candidate]) -> dict[Candidate, dict[str, float]]:
    """Requests/s of one instance by kind of request: inside the SLO where any candidate manages that, else at best."""
    members = tuple(members)
    strict, best = inside(members), at_best(members)
    names = {name for rates in strict.values() for name in rates}
    return {
        c: {n: rate for n in c.ratings if (rate := (strict if n in names else best)[c].get(n, 0.0))} for c in members
    }


def spare_capacities(members: Iterable[Candidate]) -> Rates:
    """As capacity beyond the demand counts: less for a wider instance that brings little."""
    return {c: {n: rate * c.spare_worth for n, rate in rates.items()} for c, rates in capacities(members).items()}


def kinds(demand: Demand) -> tuple[Bucket, ...]:
    """Kinds of request that come at all."""
    return tuple(b for b in demand.buckets if b.part > SMALLEST)


def wanted(demand: Demand, able: Rates) -> dict[str, float]:
    """Requests/s by kind. Of a service without traffic, a part of what one of its best instances takes counts as its
    demand: what is left over goes to it, but not what services with traffic have a use for."""
    if demand.rate > 0:
        return {b.name: b.rate for b in kinds(demand)}
    best = max((rate for rates in able.values() for rate in rates.values()), default=1.0)
    return {b.name: best * UNASKED * b.part for b in kinds(demand)}
