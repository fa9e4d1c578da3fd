"""A simulated run for people: services against their SLO, classes of GPUs, and what differs from the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import counted, grouped, percent
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.report import ClassResult, Report, ServiceResult
from llmfleet.planner.simulate.verify import Verified


def render_simulated(report: Report, plan: Plan, console: Console) -> None:
    console.print(_headline(report, plan))
    console.print()
    console.print(_services(report.services))
    console.print()
    console.print(_classes(report.classes))
    for line in remarks(report):
        console.print(line)


def render_rehearsed(
    report: Report, plan: Plan, faults: Sequence[object], errors: Mapping[str, int], client_limited: str | None,
    console: Console,
) -> None:  # fmt: skip
    kind = ("rehearsed with simulated engines", "bold yellow")
    text = Text.assemble(kind, f": {counted(report.requests, 'request')} to plan {plan.hash[:6]} ")
    console.print(text.append(f"in {_clock(report.span_s)} of its time, through the real router"))
    for fault in faults:
        console.print(Text(str(fault), "yellow"))
    console.print()
    console.print(_services(report.services))
    console.print()
    console.print(_classes(report.classes))
    for error, count in errors.items():
        console.print(Text(f"failed: {count} × {error}", "red"))
    for line in remarks(report)[:-1]:
        console.print(line)
    if client_limited:
        console.print(Text(f"do not trust these figures: {client_limited}. A lower --speed helps.", "bold red"))


def render_comparison(reports: Sequence[Report], console: Console) -> None:
    """One row a policy, one table a service that generates."""
    for name in [s.service for s in reports[0].services if s.tpot_ms]:
        rows = [(r.policy, next(s for s in r.services if s.service == name)) for r in reports]
        table = _table(f"{name} (simulated)", "in SLO", "goodput", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "hits",
                       "degraded", "refused")  # fmt: skip
        for policy, s in rows:
            table.add_row(
                policy, percent(s.attained), f"{s.goodput_rps:g}/s", *_times(s.ttft_ms, "p50", "p95", "p99"),
                *_times(s.tpot_ms, "p50", "p95"), percent(s.prefix_hit_rate), percent(s.degraded), percent(s.refused),
            )  # fmt: skip
        console.print(table)
        console.print()


def render_verify(rows: Sequence[Verified], report: Report, plan: Plan, console: Console) -> None:
    """The formula's answer and the simulation's, side by side."""
    console.print()
    console.print(Text.assemble(("verified by simulation", "bold yellow"), f": {counted(report.requests, 'request')}"))
    table = _table("service", "SLO planned", "simulated", "in SLO", "TTFT planned", "simulated", "TPOT planned",
                   "simulated", "at work planned", "simulated", "hits planned", "simulated")  # fmt: skip
    for row in rows:
        service = next(s for s in report.services if s.service == row.service)
        tail = f"p{service.slo_percentile:g}"
        expected = [i.expected for i in plan.instances if i.service == row.service]
        table.add_row(
            row.service, _met(row.planned_met), _met(row.simulated_met), f"{row.attained * 100:.1f} %",
            milliseconds(max(e.ttft_tail_ms for e in expected)), *_times(service.ttft_ms, tail),
            milliseconds(max(e.tpot_tail_ms for e in expected)), *_times(service.tpot_ms, tail),
            f"{row.planned_running:.3g}", f"{row.simulated_running:.3g}",
            percent(row.planned_prefix_hit), percent(row.simulated_prefix_hit),
        )  # fmt: skip
    console.print(table)
    for row in rows:
        if not row.agree:
            console.print(f"{row.service}: {_disagreement(row)}")


def _met(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "–"}[met]


def _disagreement(row: Verified) -> str:
    if row.planned_prefix_hit - row.simulated_prefix_hit > 0.05:
        return (
            f"prefixes are found for {percent(row.simulated_prefix_hit)} of the prompt tokens, "
            f"not for {percent(row.planned_prefix_hit)}: the cache does not hold all that prompts share. "
            "See llmfleet simulate --documents."
        )
    return "bursts and long prompts delay others more than the formula allows for. See llmfleet simulate --load."


def _headline(report: Report, plan: Plan) -> Text:
    text = Text.assemble(("simulated", "bold yellow"), f": {counted(report.requests, 'request')} to plan ")
    return text.append(f"{plan.hash[:6]} in {_clock(report.span_s)} of its time, policy {report.policy}")


def _services(services: Sequence[ServiceResult]) -> Table:
    table = _table("service", "requests", "rate", "in SLO", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "hits",
                   "degraded", "refused")  # fmt: skip
    for s in services:
        table.add_row(
            s.service, grouped(s.requests), f"{s.rate_rps:g}/s", _verdict(s),
            *_times(s.ttft_ms, "p50", "p95", "p99"), *_times(s.tpot_ms, "p50", "p95"),
            percent(s.prefix_hit_rate) if s.tpot_ms else "–", percent(s.degraded), percent(s.refused),
        )  # fmt: skip
    return table


def _verdict(s: ServiceResult) -> Text:
    if s.slo_met is None:
        return Text(f"{s.attained * 100:.1f} %")
    sign, style = ("≥", "green") if s.slo_met else ("<", "bold red")
    return Text(f"{s.attained * 100:.1f} % {sign} {s.slo_percentile:g} %", style)


def _classes(classes: Sequence[ClassResult]) -> Table:
    table = _table("on", "service", "instances", "requests", "running", "of places", "busy", "KV in use", "hits")
    for c in classes:
        table.add_row(
            c.gpu, c.service, str(c.instances), grouped(c.requests), f"{c.running:.3g}", percent(c.utilization),
            percent(c.busy), percent(c.kv_usage), percent(c.prefix_hit_rate),
        )  # fmt: skip
    return table


def remarks(report: Report) -> list[str]:
    """What a reader should know: SLOs missed, requests that fit nowhere, blocks that ran out."""
    lines = []
    for s in report.services:
        if s.slo_met is False:
            lines.append(
                f"{s.service} misses its SLO: {s.attained * 100:.1f} % of its requests keep it, "
                f"{s.slo_percentile:g} % should."
            )
        if s.too_long:
            lines.append(f"{s.service}: {s.too_long * 100:.2g} % of the requests are longer than any instance takes.")
    preempted = sum(i.preemptions for i in report.instances)
    if preempted:
        lines.append(f"KV blocks ran out {grouped(preempted)} times: requests had to start over.")
    return [*lines, "Speeds are the plan's; queues, caches and the router's choices are simulated."]


def _times(values: dict[str, float], *names: str) -> list[str]:
    return [milliseconds(values[name]) if name in values else "–" for name in names]


def milliseconds(value: float) -> str:
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} ms"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="left" if name == "service" else "right")
    return table
