"""A plan under its traffic, request by request, in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.fleet import Fleet, Policy, fleet_of
from llmfleet.planner.simulate.report import Report, report
from llmfleet.planner.simulate.requests import DOCUMENTS, Stream, drawn, merged
from llmfleet.planner.simulate.router import finish, run
from llmfleet.planner.simulate.world import world_of

PORTION = 20_000  # requests between two words of progress


@dataclass(frozen=True, slots=True)
class Scenario:
    """`requests` in all, `load` times the peak. `warm`: part at the start that figures of services leave out.

    `streams`: services whose requests are given, from a trace, rather than drawn.
    """

    requests: int = 100_000
    load: float = 1.0
    documents: int = DOCUMENTS
    policy: Policy = "router"
    seed: int = 0
    warm: float = 0.1
    streams: Mapping[str, Stream] = field(default_factory=dict)


def simulate(
    decision: Decision, plan: Plan, scenario: Scenario, progress: Callable[[int, int], None] | None = None
) -> Report:
    """`progress` hears how many of how many requests are done. Raises InputError without any traffic."""
    return simulate_fleet(fleet_of(decision, plan), decision.demands, scenario, progress)


def simulate_fleet(
    fleet: Fleet,
    demands: Sequence[Demand],
    scenario: Scenario,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    streams = streams_of(fleet, demands, scenario)
    kinds = {kind: row for row, kind in enumerate(fleet.tries)}
    world = world_of(fleet, scenario.policy, merged(streams, kinds, fleet.over()))
    count = sum(len(s.arrival) for s in streams)
    for first in range(0, count, PORTION):
        run(world, first, min(count, first + PORTION))
        if progress is not None:
            progress(min(count, first + PORTION), count)
    finish(world)
    return report(fleet, demands, world, kinds, scenario.policy, scenario.seed, scenario.warm)


def streams_of(fleet: Fleet, demands: Sequence[Demand], scenario: Scenario) -> list[Stream]:
    """Each service's requests by a generator of its own, so that one service's traffic does not change another's."""
    served = {service for (service, _), pools in fleet.tries.items() if pools}
    asked = [d for d in demands if d.service.name in served and (d.rate > 0 or d.service.name in scenario.streams)]
    if not asked:
        raise InputError("there is no traffic to simulate", hint="services[].traffic: {rate: …} in the inventory")
    total = sum(d.rate for d in asked if d.service.name not in scenario.streams)
    made = []
    for demand in asked:
        given = scenario.streams.get(demand.service.name)
        if given is None:
            count = max(1, round(scenario.requests * demand.rate / total))
            rng = np.random.default_rng([scenario.seed, *demand.service.name.encode()])
            given = drawn(demand, count, rng, load=scenario.load, documents=scenario.documents)
        made.append(given)
    return made
