"""Each service at a glance: its peak against its room, its latencies against its promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmfleet.cli.render.plan_groups import at_work
from llmfleet.cli.render.plan_tables import rate_text, time_text
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Instance, Plan, ServicePlan, by_service


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure in words and as parts of a bar: filled 0..1, and where the limit is, if there is one."""

    name: str
    text: str
    filled: float
    limit: float | None
    over: bool


@dataclass(frozen=True, slots=True)
class ServiceCard:
    service: ServicePlan
    status: str
    good: bool
    gpus: float
    place: str  # what it counts: GPUs, or CPU slots
    gauges: tuple[Gauge, ...]


def service_cards(plan: Plan, inventory: Inventory) -> list[ServiceCard]:
    everything, busy = by_service(plan.instances), at_work(plan)
    return [_card(s, everything.get(s.name, ()), busy.get(s.name, []), inventory) for s in plan.services]


def _card(
    service: ServicePlan, members: Sequence[Instance], busy: Sequence[Instance], inventory: Inventory
) -> ServiceCard:
    slo = inventory.service(service.name).slo
    gauges = [_load(service)]
    if service.demand_rps and busy:
        first = "time to first token" if service.task == "generate" else "time to the answer"
        ttfts = [(i.expected.ttft_tail_ms, service.ttft_limit_s(i.id, slo.ttft, slo.percentile)) for i in busy]
        gauges.append(_latency(f"{first}, p{slo.percentile:g}", *max(ttfts, key=lambda t: t[0] / (t[1] or 1))))
        if service.task == "generate":
            slowest = max(i.expected.tpot_tail_ms for i in busy)
            gauges.append(_latency(f"time per token, p{slo.percentile:g}", slowest, slo.tpot))
    return ServiceCard(
        service=service,
        status=_status(service, has_slo=bool(slo.ttft or slo.tpot)),
        good=service.slo_met,
        gpus=sum(len(gpus) * i.gpu_share for i in members for gpus in i.gpus.values()),
        place="CPU slot" if members and all(i.accelerator == "cpu" for i in members) else "GPU",
        gauges=tuple(gauges),
    )


def _status(service: ServicePlan, *, has_slo: bool) -> str:
    if not service.pools:
        return "runs nowhere"
    if not service.slo_met:
        return "short"
    return "keeps its SLO" if has_slo and service.demand_rps else "served" if service.demand_rps else "ready"


def _load(service: ServicePlan) -> Gauge:
    demand, capacity = service.demand_rps, service.capacity_rps
    most = max(demand, capacity) or 1.0
    if not demand:
        return Gauge("requests/s", f"room for {rate_text(capacity)}, none of its own", 0.0, None, False)
    text = f"{rate_text(demand)} at the peak, room for {rate_text(capacity)}"
    return Gauge("requests/s", text, demand / most, capacity / most, demand > capacity)


def _latency(name: str, tail_ms: float, limit_s: float | None) -> Gauge:
    if not limit_s:
        return Gauge(name, f"{time_text(tail_ms)}, no limit set", 0.0, None, False)
    most = max(tail_ms, 1000 * limit_s)
    text = f"{time_text(tail_ms)} of {time_text(1000 * limit_s)}"
    return Gauge(name, text, tail_ms / most, 1000 * limit_s / most, tail_ms > 1000 * limit_s)
