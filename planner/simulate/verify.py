"""The plan's own answer beside the simulation's: does the formula see what queues and caches do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.mix import mix_of
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.report import Report


@dataclass(frozen=True, slots=True)
class Verified:
    """One service, at the simulated load. `agree`: both say that the SLO is met, or both that it is not.

    `running`: requests under way in all its instances, on average.
    """

    service: str
    load: float
    planned_met: bool | None
    simulated_met: bool | None
    attained: float
    planned_running: float
    simulated_running: float
    planned_prefix_hit: float
    simulated_prefix_hit: float

    @property
    def agree(self) -> bool:
        return self.planned_met == self.simulated_met


def verify(decision: Decision, plan: Plan, report: Report, load: float = 1.0) -> tuple[Verified, ...]:
    made = []
    for service in report.services:
        planned = next(s for s in plan.services if s.name == service.service)
        demand = next(d for d in decision.demands if d.service.name == service.service)
        inside = decision.spreads[planned.name].inside and planned.capacity_rps >= planned.demand_rps * load
        traffic = demand.service.traffic
        made.append(
            Verified(
                service=planned.name,
                load=load,
                planned_met=inside if service.slo_met is not None else None,
                simulated_met=service.slo_met,
                attained=service.attained,
                planned_running=sum(running(decision, c, load) * n for c, n in decision.of(planned.name).items()),
                simulated_running=_simulated_running(report, planned.name),
                planned_prefix_hit=traffic.shared_prefix if traffic and planned.task == "generate" else 0.0,
                simulated_prefix_hit=service.prefix_hit_rate,
            )
        )
    return tuple(made)


def running(decision: Decision, c: Candidate, load: float) -> float:
    """Requests under way in one instance by the formula: those that decode and those before their first token."""
    spread, demand = decision.spreads[c.service], c.demand
    part = spread.part(c)
    if part < 1e-9 or not demand.rate:
        return 0.0
    mix = mix_of(c, spread.parts[c])
    steady = mix.batching(c).at_rate(load * part * demand.rate / decision.counts[c])
    return (steady.batch if mix.request.output_len else 0.0) + steady.rate * steady.ttft_s


def _simulated_running(report: Report, service: str) -> float:
    classes: Sequence[tuple[float, int]] = [(c.running, c.instances) for c in report.classes if c.service == service]
    return sum(running * count for running, count in classes)
