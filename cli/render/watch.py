"""The live screen of a fleet: as much of it as the terminal holds, what is wrong first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import grouped, percent
from llmfleet.cli.render.status import actual_shares, headline, next_step, planned_shares, services_table, state
from llmfleet.launch.looking import Rates
from llmfleet.launch.results import FleetStatus, InstanceStatus, NodeStatus
from llmfleet.planner.plan import Plan

T = TypeVar("T", InstanceStatus, NodeStatus)
BAR = 10
FIXED_ROWS = 11  # headline, totals, blank lines, heads of tables, the router's line
MOST_PROBLEMS = 4


def render_watch(
    status: FleetStatus, plan: Plan, rates: Rates, *, width: int, height: int, now: datetime
) -> RenderableType:
    """`width` and `height` of the terminal in columns and rows."""
    problems = _problems(status)
    room = max(4, height - FIXED_ROWS - len(problems) - (1 if status.ray else 0))
    nodes_room = max(2, min(len(status.nodes), room // 3))
    return Group(
        Text.assemble(headline(status), (f"   {now:%H:%M:%S}", "dim")),
        _totals(status, rates),
        "",
        _instances(status, plan, rates, rows=room - nodes_room, width=width),
        "",
        _nodes(status, rows=nodes_room, width=width),
        "",
        services_table(status),
        *problems,
    )


def _totals(status: FleetStatus, rates: Rates) -> Text:
    running = sum(i.running or 0 for i in status.instances)
    waiting = sum(i.waiting or 0 for i in status.instances)
    parts = [
        f"{grouped(round(sum(rates.output_tokens_per_s.values())))} tokens/s",
        f"{sum(rates.requests_per_s.values()):.1f} requests/s",
        f"{grouped(running)} running",
        f"{grouped(waiting)} waiting",
    ]
    return Text(" · ".join(parts), "bold")


def _instances(status: FleetStatus, plan: Plan, rates: Rates, *, rows: int, width: int) -> Table:
    planned, actual = planned_shares(plan), actual_shares(status)
    columns: dict[str, Callable[[InstanceStatus], str | Text]] = {
        "tokens/s": lambda i: _number(rates.output_tokens_per_s.get(i.id)),
        "req/s": lambda i: _number(rates.requests_per_s.get(i.id), digits=1),
        "running": lambda i: _number(i.running),
        "queue": lambda i: _number(i.waiting),
        "KV": lambda i: bar(i.kv_usage) if width >= 100 else _share(i.kv_usage),
        "prefix": lambda i: _share(i.prefix_hit_rate),
        "share": lambda i: _share(actual.get(i.id)),
        "plan": lambda i: _share(planned.get(i.id)),
    }
    table = _table("instance", "state", *columns)
    for column in table.columns[2:]:
        column.justify = "right"
    shown, more = _first(status.instances, rows, lambda i: i.state == "healthy")
    for i in shown:
        table.add_row(i.id, state(i.state), *(figure(i) for figure in columns.values()))
    if more:
        table.add_row(Text(more, "dim"))
    return table


def _nodes(status: FleetStatus, *, rows: int, width: int) -> Table:
    wide = width >= 100
    table = _table("node", "state", "GPUs", *(("use", "memory") if wide else ()), "")
    shown, more = _first(status.nodes, rows, lambda n: n.state == "ready")
    for n in shown:
        names = [*("router" for r in status.routers if r.node == n.name), *n.instances]
        what = n.reason or ", ".join(names)
        live = (bar(_mean([g.use for g in n.gpus])), bar(_mean([g.memory for g in n.gpus]))) if wide else ()
        remark = Text(what, "dim", overflow="ellipsis", no_wrap=True)
        table.add_row(n.name, state(n.state), n.accelerators or "–", *live, remark)
    if more:
        table.add_row(Text(more, "dim"))
    return table


def _problems(status: FleetStatus) -> list[RenderableType]:
    if not status.problems:
        return []
    shown = [Text(f"  {p}", overflow="ellipsis", no_wrap=True) for p in status.problems[:MOST_PROBLEMS]]
    rest = len(status.problems) - MOST_PROBLEMS
    more = [Text(f"  and {rest} more: llmfleet status", "dim")] if rest > 0 else []
    return [Text("not as planned", "bold red"), *shown, *more, Text(f"next: {next_step(status)}", "dim")]


def _first(
    things: Iterable[T], rows: int, well: Callable[[T], bool]
) -> tuple[list[T], str]:
    """As many as there is room for, those that are not well before others, each part in the plan's order."""
    ordered = sorted(things, key=well)
    if len(ordered) <= rows:
        return ordered, ""
    shown = ordered[: max(1, rows - 1)]
    rest = ordered[len(shown) :]
    bad = sum(not well(t) for t in rest)
    return shown, f"and {len(rest)} more" + (f", {bad} of them not well" if bad else "")


def bar(share: float | None) -> Text:
    """A share of 0..1 as a bar with its figure; red when little is left."""
    if share is None:
        return Text("–", justify="right")
    full = round(min(1.0, max(0.0, share)) * BAR)
    colour = "red" if share >= 0.95 else "yellow" if share >= 0.8 else "green"
    return Text.assemble(("█" * full, colour), ("░" * (BAR - full), "dim"), f" {percent(share):>5}")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int = 0) -> str:
    if value is None:
        return "–"
    return grouped(round(value)) if not digits else f"{value:.{digits}f}"


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    return table
