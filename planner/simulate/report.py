"""What a simulated run says: by service, by class of GPU, by instance. Every figure is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.simulate.arrays import (
    ARRIVAL,
    BUSY,
    CLOCKS,
    DONE,
    FIRST_TOKEN,
    HIT_TOKENS,
    KV_TIME,
    LAST_TOKEN,
    PREEMPTED,
    PROMPT_TOKENS,
    R_ANSWER,
    R_CACHED,
    R_ENGINE,
    R_KIND,
    R_OUTCOME,
    R_PROMPT,
    ROW,
    TIMES,
    TOO_LONG,
    WIDTH,
    World,
)
from llmfleet.planner.simulate.fleet import Fleet

PERCENTILES = (50, 90, 95, 99)
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """Shares are of the service's requests; `attained` is the share that kept both limits of the SLO.

    Percentiles in ms, by their names (p50, …); rates in requests/s. `slo_met` None: the service has no limits.
    """

    service: str
    requests: int
    rate_rps: float
    goodput_rps: float
    attained: float
    slo_percentile: float
    slo_met: bool | None
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]
    e2e_ms: dict[str, float]
    output_tokens_per_s: float
    prefix_hit_rate: float
    degraded: float
    refused: float
    too_long: float


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """`running`: requests under way, on average while requests arrive; `utilization`: of the places the plan gives it.

    `busy` and `kv_usage` are of the whole run, to the end of the last answer.
    """

    id: str
    service: str
    gpu: str
    requests: int
    running: float
    utilization: float
    busy: float
    kv_usage: float
    prefix_hit_rate: float
    preemptions: int


@dataclass(frozen=True, slots=True)
class ClassResult:
    """Instances of one service on one class of GPU, on average."""

    gpu: str
    service: str
    instances: int
    requests: int
    running: float
    utilization: float
    busy: float
    kv_usage: float
    prefix_hit_rate: float


@dataclass(frozen=True, slots=True)
class Report:
    """`span_s`: simulated seconds. `source` says what kind of figures these are."""

    policy: str
    seed: int
    requests: int
    span_s: float
    services: tuple[ServiceResult, ...]
    classes: tuple[ClassResult, ...]
    instances: tuple[InstanceResult, ...]
    source: str = "simulated"


def report(
    fleet: Fleet, demands: Sequence[Demand], world: World, kinds: dict[tuple[str, bool], int], policy: str, seed: int,
    warm: float,
) -> Report:  # fmt: skip
    """`warm`: part of the requests at the start that figures of services leave out."""
    request = np.asarray(world.request).reshape(-1, ROW)
    times = np.asarray(world.times).reshape(-1, TIMES)
    arrivals = times[:, ARRIVAL]
    counted = arrivals >= np.quantile(arrivals, warm)
    span = max(float(times[:, LAST_TOKEN].max()), float(arrivals.max()), 1e-9)
    of = {name: [row for (service, _), row in kinds.items() if service == name] for name, _ in kinds}
    services = []
    for demand in demands:
        mine = counted & np.isin(request[:, R_KIND], of.get(demand.service.name, []))
        if mine.any():
            services.append(_service(fleet, demand, request[mine], times[mine], kinds))
    instances = _instances(fleet, world, request, span, under_way(request, times, counted, len(fleet.engines)))
    classes = by_class(instances)
    return Report(policy, seed, len(request), rounded(span), tuple(services), tuple(classes), tuple(instances))


def _service(
    fleet: Fleet, demand: Demand, request: Array, times: Array, kinds: dict[tuple[str, bool], int]
) -> ServiceResult:
    name, slo = demand.service.name, demand.service.slo
    done = request[:, R_OUTCOME] == DONE
    ttft = times[:, FIRST_TOKEN] - times[:, ARRIVAL]
    further = np.maximum(1, request[:, R_ANSWER] - 1)
    tpot = (times[:, LAST_TOKEN] - times[:, FIRST_TOKEN]) / further
    owners = np.array([e.instance.service for e in fleet.engines])
    degraded = done & (owners[request[:, R_ENGINE]] != name)
    long = request[:, R_KIND] == kinds.get((name, True), -1)
    limits = {bucket.long: bucket.limits for bucket in demand.buckets}
    usual = limits[False]
    ttft_limit = np.where(long, limits.get(True, usual).ttft_s, usual.ttft_s)
    kept = done & ~degraded & (ttft <= ttft_limit) & (tpot <= usual.tpot_s)
    count = len(request)
    span = max(1e-9, float(np.ptp(times[:, ARRIVAL])))
    attained = float(kept.mean())
    answers = request[:, R_ANSWER][done] if demand.service.task == "generate" else np.zeros(0)
    decoding = done & (request[:, R_ANSWER] > 1)
    return ServiceResult(
        service=name,
        requests=count,
        rate_rps=rounded(count / span),
        goodput_rps=rounded(kept.sum() / span),
        attained=rounded(attained),
        slo_percentile=slo.percentile,
        slo_met=attained * 100 >= slo.percentile if slo.ttft or slo.tpot else None,
        ttft_ms=percentiles(ttft[done] * 1000),
        tpot_ms=percentiles(tpot[decoding] * 1000) if demand.service.task == "generate" else {},
        e2e_ms=percentiles((times[:, LAST_TOKEN] - times[:, ARRIVAL])[done] * 1000),
        output_tokens_per_s=rounded(float(answers.sum()) / span),
        prefix_hit_rate=rounded(float(request[done, R_CACHED].sum()) / max(1.0, float(request[done, R_PROMPT].sum()))),
        degraded=rounded(float(degraded.mean())),
        refused=rounded(float((~done & (request[:, R_OUTCOME] != TOO_LONG)).mean())),
        too_long=rounded(float((request[:, R_OUTCOME] == TOO_LONG).mean())),
    )


def percentiles(values: Array) -> dict[str, float]:
    """By name; empty without values."""
    if not len(values):
        return {}
    return {f"p{p}": rounded(float(v)) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def under_way(request: Array, times: Array, counted: Array, engines: int) -> Array:
    """Requests in each engine, on average, by Little's law: arrivals a second times how long each stays.

    Not read off the engines' clocks, which run on until the last, longest answer is done.
    """
    mine = counted & (request[:, R_OUTCOME] == DONE)
    stays = times[mine, LAST_TOKEN] - times[mine, ARRIVAL]
    window = max(1e-9, float(np.ptp(times[counted, ARRIVAL])))
    return np.bincount(request[mine, R_ENGINE].astype(int), weights=stays, minlength=engines) / window


def _instances(fleet: Fleet, world: World, request: Array, span: float, work: Array) -> list[InstanceResult]:
    state = np.asarray(world.engine).reshape(-1, WIDTH)
    clock = np.asarray(world.clock).reshape(-1, CLOCKS)
    counts = np.bincount(request[:, R_ENGINE][request[:, R_ENGINE] >= 0], minlength=len(fleet.engines))
    made = []
    for i, engine in enumerate(fleet.engines):
        running = float(work[i])
        prompts = int(state[i, PROMPT_TOKENS])
        made.append(
            InstanceResult(
                id=engine.instance.id,
                service=engine.instance.service,
                gpu=engine.gpu,
                requests=int(counts[i]),
                running=rounded(running),
                utilization=rounded(running / engine.instance.max_concurrency),
                busy=rounded(float(clock[i, BUSY]) / span),
                kv_usage=rounded(float(clock[i, KV_TIME]) / span / engine.blocks) if engine.blocks else 0.0,
                prefix_hit_rate=rounded(int(state[i, HIT_TOKENS]) / prompts) if prompts else 0.0,
                preemptions=int(state[i, PREEMPTED]),
            )
        )
    return made


def by_class(instances: Sequence[InstanceResult]) -> list[ClassResult]:
    groups: dict[tuple[str, str], list[InstanceResult]] = {}
    for one in instances:
        groups.setdefault((one.gpu, one.service), []).append(one)
    return [
        ClassResult(
            gpu, service, len(members), sum(m.requests for m in members),
            *(_mean(members, f) for f in ("running", "utilization", "busy", "kv_usage", "prefix_hit_rate")),
        )
        for (gpu, service), members in groups.items()
    ]  # fmt: skip


def _mean(members: Sequence[InstanceResult], name: str) -> float:
    """Hit rates count by requests, everything else by instance."""
    parts = [m.requests if name == "prefix_hit_rate" else 1 for m in members]
    total = sum(parts)
    weighted = sum(getattr(m, name) * part for m, part in zip(members, parts, strict=True))
    return rounded(weighted / total) if total else 0.0


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
