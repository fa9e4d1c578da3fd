"""A rehearsal from start to end: the stage, the traffic, the faults, the report. All engines in it are simulated."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import httpx
import numpy as np

from llmfleet.launch.bench.client import Client, address
from llmfleet.launch.bench.figures import BUSY
from llmfleet.launch.bench.load import Run, opened
from llmfleet.launch.bench.stream import Sample
from llmfleet.launch.rehearse.faults import Fault, require_within
from llmfleet.launch.rehearse.stage import Stage, staged
from llmfleet.launch.rehearse.traffic import Timetable
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.fleet import Fleet
from llmfleet.planner.simulate.report import (
    ClassResult,
    InstanceResult,
    Report,
    ServiceResult,
    by_class,
    percentiles,
    rounded,
)
from llmfleet.planner.simulate.simulate import Scenario, streams_of

SAMPLE = re.compile(r"^([a-z_:]+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
LOOK_S = 1.0
SOURCE = "simulated engines behind the real router"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """`client_limited` says, if it does, that this machine was too slow for the figures to mean anything."""

    report: Report
    speed: float
    seconds: float
    client_cpu: float
    client_limited: str | None
    errors: dict[str, int] = field(default_factory=dict)


def rehearse(
    plan: Plan, fleet: Fleet, demands: Sequence[Demand], scenario: Scenario, faults: Sequence[Fault], *,
    speed: float, say: Callable[[str], None], progress: Callable[[int, int], None],
) -> Rehearsed:  # fmt: skip
    """`speed`: how many of the traffic's seconds pass in one of ours. Raises InputError for a fault after the end."""
    streams = streams_of(fleet, demands, scenario)
    table = Timetable(streams, {d.service.name: d.service.task for d in demands})
    require_within(faults, max(table.arrivals, default=0.0))
    with staged(plan, fleet, speed, say) as stage:
        watch = Watch(stage)
        client = Client(address(stage.router), timeout_s=600.0)
        arrivals = [at / speed for at in table.arrivals]
        timers = _arm(stage, faults, speed)
        say(f"sending {len(table)} requests")
        done = 0

        def heard(_: Sample) -> None:
            nonlocal done
            done += 1
            progress(done, len(table))

        start = time.monotonic()
        try:
            run = opened(client, table.requests(client), arrivals, heard)
        finally:
            for timer in timers:
                timer.cancel()
        span = (time.monotonic() - start) * speed
        seen = watch.end()
    report = _report(fleet, demands, table, run, seen, scenario, speed, span)
    return Rehearsed(report, speed, rounded(run.seconds), rounded(run.cpu), _limited(run, speed), _errors(run))


def _arm(stage: Stage, faults: Sequence[Fault], speed: float) -> list[threading.Timer]:
    """A timer for the beginning of each fault, and for its end."""
    timers = []
    for fault in faults:
        for name in fault.instances:
            begin, end = _acts(stage, fault, name)
            timers.append(threading.Timer(fault.at_s / speed, begin))
            if fault.span_s is not None:
                timers.append(threading.Timer((fault.at_s + fault.span_s) / speed, end))
    for timer in timers:
        timer.daemon = True
        timer.start()
    return timers


def _acts(stage: Stage, fault: Fault, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    if fault.kind == "slow":
        return lambda: stage.slow(name, fault.factor), lambda: stage.slow(name, 1.0)
    begin = signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP
    return lambda: stage.signal(name, begin), lambda: stage.signal(name, signal.SIGCONT)


class Watch:
    """Looks at every engine's metrics once a second: of one that dies, the last look counts."""

    def __init__(self, stage: Stage) -> None:
        self._pages = {name: f"http://{host}:{port}/metrics" for name, (host, port) in stage.addresses.items()}
        self._seen: dict[str, dict[str, float]] = {name: {} for name in self._pages}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, dict[str, float]]:
        self._stop.set()
        self._thread.join(30)
        self._look()
        return self._seen

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        with httpx.Client(trust_env=False, timeout=0.5) as client:
            for name, url in self._pages.items():
                try:
                    page = client.get(url).text
                except httpx.HTTPError:
                    continue
                self._seen[name] = {key: float(value) for key, value in SAMPLE.findall(page)}


def _report(
    fleet: Fleet, demands: Sequence[Demand], table: Timetable, run: Run, seen: dict[str, dict[str, float]],
    scenario: Scenario, speed: float, span: float,
) -> Report:  # fmt: skip
    samples = sorted(run.samples, key=lambda s: s.due)
    first = int(len(samples) * scenario.warm)
    services = [
        _service(demand, table, [(i, s) for i, s in enumerate(samples) if i >= first], speed)
        for demand in demands
        if demand.service.name in table.services
    ]
    instances = _instances(fleet, seen, span)
    classes: list[ClassResult] = by_class(instances)
    return Report(
        "router", scenario.seed, len(samples), rounded(span), tuple(services), tuple(classes), tuple(instances), SOURCE
    )


def _service(demand: Demand, table: Timetable, samples: Sequence[tuple[int, Sample]], speed: float) -> ServiceResult:
    name, slo = demand.service.name, demand.service.slo
    mine = [(i, s) for i, s in samples if table.services[i] == name]
    good = [(i, s) for i, s in mine if s.ok]
    limits = {bucket.long: bucket.limits for bucket in demand.buckets}
    over = demand.over or 1 << 60

    def kept(i: int, s: Sample) -> bool:
        ttft = limits.get(table.prompts[i] > over, limits[False]).ttft_s
        return not s.degraded and s.ttft_s * speed <= ttft and (s.tpot_s or 0.0) * speed <= limits[False].tpot_s

    inside = sum(kept(i, s) for i, s in good)
    generates = demand.service.task == "generate"
    span = max(1e-9, (mine[-1][1].due - mine[0][1].due) * speed) if mine else 1.0
    attained = inside / len(mine) if mine else 0.0
    prompts = sum(s.prompt for _, s in good if s.cached is not None)
    return ServiceResult(
        service=name,
        requests=len(mine),
        rate_rps=rounded(len(mine) / span),
        goodput_rps=rounded(inside / span),
        attained=rounded(attained),
        slo_percentile=slo.percentile,
        slo_met=attained * 100 >= slo.percentile if slo.ttft or slo.tpot else None,
        ttft_ms=percentiles(np.array([s.ttft_s for _, s in good]) * 1000 * speed),
        tpot_ms=percentiles(np.array([s.tpot_s for _, s in good if s.tpot_s is not None]) * 1000 * speed),
        e2e_ms=percentiles(np.array([s.e2e_s for _, s in good]) * 1000 * speed),
        output_tokens_per_s=rounded(sum(s.answer for _, s in good) / span) if generates else 0.0,
        prefix_hit_rate=rounded(sum(s.cached or 0 for _, s in good) / prompts) if prompts else 0.0,
        degraded=rounded(fmean([s.degraded for _, s in good])) if good else 0.0,
        refused=rounded(1 - len(good) / len(mine)) if mine else 0.0,
        too_long=0.0,
    )


def _instances(fleet: Fleet, seen: dict[str, dict[str, float]], span: float) -> list[InstanceResult]:
    made = []
    for engine in fleet.engines:
        page = seen[engine.instance.id]
        queries = page.get("vllm:prefix_cache_queries_total", 0.0)
        running = page.get("simulated:running_seconds_total", 0.0) / span
        blocks = page.get("simulated:kv_block_seconds_total", 0.0) / span
        made.append(
            InstanceResult(
                id=engine.instance.id,
                service=engine.instance.service,
                gpu=engine.gpu,
                requests=int(page.get("vllm:request_success_total", 0)),
                running=rounded(running),
                utilization=rounded(running / engine.instance.max_concurrency),
                busy=rounded(page.get("simulated:busy_seconds_total", 0.0) / span),
                kv_usage=rounded(blocks / engine.blocks) if engine.blocks else 0.0,
                prefix_hit_rate=rounded(page.get("vllm:prefix_cache_hits_total", 0.0) / queries) if queries else 0.0,
                preemptions=int(page.get("vllm:num_preemptions_total", 0)),
            )
        )
    return made


def _limited(run: Run, speed: float) -> str | None:
    late = sorted(run.late_s)
    worst = late[int(len(late) * 0.99)] * speed if late else 0.0
    if run.cpu > BUSY:
        return f"the client took {run.cpu * 100:.0f} % of a core"
    if worst > 0.1:
        return f"one request in a hundred was sent {worst * 1000:.0f} ms of its time late or more"
    return None


def _errors(run: Run) -> dict[str, int]:
    found: dict[str, int] = {}
    for sample in run.samples:
        if not sample.ok:
            found[sample.error] = found.get(sample.error, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:5])
