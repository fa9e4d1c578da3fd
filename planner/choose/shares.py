"""How the requests of one service spread over its instances: evenly loaded, each kind of prompt where it may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.choose.program import Program
from llmfleet.planner.choose.rates import SMALLEST, capacities


@dataclass(frozen=True, slots=True)
class Spread:
    """`parts[candidate][bucket]`: part of the service's requests that a candidate's instances take; all add up to 1.

    `capacity_rps`: requests/s of the service's own mix at which the first instance is full; `inside`: within the SLO.
    """

    parts: Mapping[Candidate, Mapping[str, float]]
    capacity_rps: float
    inside: bool

    def part(self, candidate: Candidate) -> float:
        return sum(self.parts.get(candidate, {}).values())


def spread(demand: Demand, counts: Mapping[Candidate, int]) -> Spread:
    """The spread with the lowest load of the fullest instance. Without any instance: no parts, no capacity."""
    buckets = [b for b in demand.buckets if b.part > SMALLEST]
    program = Program()
    load = program.column()
    flows: dict[tuple[Candidate, str], int] = {}
    able = capacities(counts)
    for c, count in counts.items():
        terms: dict[int, float] = {load: -1.0}
        for bucket in buckets:
            if bucket.name in able[c]:
                flows[c, bucket.name] = program.column()
                terms[flows[c, bucket.name]] = 1 / (able[c][bucket.name] * count)
        program.at_most(terms, 0.0)
    for bucket in buckets:
        takers = {column: 1.0 for (_, name), column in flows.items() if name == bucket.name}
        if not takers:
            return Spread({}, 0.0, False)
        program.equal(takers, bucket.part)
    best = program.minimize("load", {load: 1.0})
    # Among spreads that are equally good: short prompts stay off the pool for long ones where that costs nothing.
    long = {b.name for b in buckets if b.long}
    stray = {column: 1.0 for (c, name), column in flows.items() if c.role == "long" and name not in long}
    program.minimize("short prompts in the long pool", stray)
    parts: dict[Candidate, dict[str, float]] = {c: {} for c in counts}
    for (c, name), column in flows.items():
        parts[c][name] = max(0.0, program.value(column))
    inside = all(
        part < 1e-6 or c.ratings[name].inside.rate > SMALLEST for c, by in parts.items() for name, part in by.items()
    )
    return Spread(_normal(parts), 1 / best if best > 0 else 0.0, inside)


def _normal(parts: dict[Candidate, dict[str, float]]) -> dict[Candidate, dict[str, float]]:
    total = sum(sum(by.values()) for by in parts.values()) or 1.0
    return {c: {name: part / total for name, part in by.items()} for c, by in parts.items()}
