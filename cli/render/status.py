"""A fleet's state as tables for people and as the contract's JSON for scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import counted, grouped, percent
from llmfleet.cli.render.names import compressed
from llmfleet.launch.results import FleetStatus, InstanceStatus
from llmfleet.planner.plan import Plan

WIDE = 110
KEPT_WHOLE = {"node", "host", "state", "instance", "running", "waiting", "KV", "prefix", "requests", "share (plan)"}
COLOURS = {
    "ready": "green", "healthy": "green", "starting": "yellow", "draining": "yellow", "degraded": "yellow",
    "drained": "dim", "stopped": "dim", "unhealthy": "red", "unreachable": "red",
}  # fmt: skip


def status_json(status: FleetStatus, plan: Plan) -> dict[str, Any]:
    """Keys of the contract and more: each instance also carries its planned and its actual share of its service."""
    body: dict[str, Any] = TypeAdapter(FleetStatus).dump_python(status, mode="json")
    planned, actual = planned_shares(plan), actual_shares(status)
    for instance in body["instances"]:
        instance["planned_share"] = planned.get(instance["id"])
        instance["actual_share"] = actual.get(instance["id"])
    return body


def planned_shares(plan: Plan) -> dict[str, float]:
    """Of its service's requests, 0..1: the pool's share, split by weight."""
    shares: dict[str, float] = {}
    for pool in (pool for service in plan.services for pool in service.pools):
        weights = {i.id: i.weight for i in plan.those(pool.instances)}
        total = sum(weights.values())
        for name, weight in weights.items():  # an instance may be in two pools: that of long prompts, and a shared one
            shares[name] = shares.get(name, 0.0) + (pool.share * weight / total if total else 0.0)
    return shares


def actual_shares(status: FleetStatus) -> dict[str, float]:
    """Of its service's requests since the router started, 0..1; nothing for a service that had none."""
    totals: dict[str, int] = {}
    for instance in status.instances:
        totals[instance.service] = totals.get(instance.service, 0) + status.router.requests.get(instance.id, 0)
    return {
        i.id: status.router.requests.get(i.id, 0) / totals[i.service] for i in status.instances if totals[i.service]
    }


def render_status(status: FleetStatus, plan: Plan, *, width: int) -> RenderableType:
    """`width` of the terminal in columns; a narrow one is shown the figures that change."""
    parts: list[RenderableType] = [
        headline(status),
        "",
        _nodes(status),
        "",
        _instances(status, plan, narrow=width < WIDE),
        "",
        services_table(status),
    ]
    if status.problems:
        parts += ["", Text("not as planned", "bold red"), *(Text(f"  {problem}") for problem in status.problems)]
        parts += ["", Text(f"next: {next_step(status)}", "dim")]
    return Group(*parts)


def headline(status: FleetStatus) -> Text:
    verdict = ("all as planned", "green") if status.ok else (counted(len(status.problems), "problem"), "bold red")
    text = Text.assemble(
        (status.cluster, "bold"), f": {counted(len(status.nodes), 'node')}, plan {status.plan_hash[:6]}, "
    )
    return text.append(*verdict)


def _nodes(status: FleetStatus) -> Table:
    table = _table("node", "host", "state", "instances", "")
    for node in status.nodes:
        roles = [*("router" for r in status.routers if r.node == node.name), *node.instances]
        table.add_row(node.name, node.host, state(node.state), ", ".join(roles) or "–", Text(node.reason, "dim"))
    return table


def _instances(status: FleetStatus, plan: Plan, *, narrow: bool) -> Table:
    planned, actual = planned_shares(plan), actual_shares(status)
    columns: dict[str, Callable[[InstanceStatus], str]] = {
        "running": lambda i: _count(i.running),
        "waiting": lambda i: _count(i.waiting),
        "KV": lambda i: _percent(i.kv_usage),
        "prefix": lambda i: _percent(i.prefix_hit_rate),
        "share (plan)": lambda i: f"{_percent(actual.get(i.id))} ({_percent(planned.get(i.id))})",
    }
    if not narrow:
        columns["requests"] = lambda i: _count(status.router.requests.get(i.id))
    table = _table("instance", "state", *columns, *([] if narrow else ["address", ""]))
    for column in table.columns[2 : 2 + len(columns)]:
        column.justify = "right"
    for i in status.instances:
        figures = (figure(i) for figure in columns.values())
        rest = () if narrow else (i.address, Text(_remark(i), "dim"))
        table.add_row(i.id, state(i.state), *figures, *rest)
    return table


def services_table(status: FleetStatus) -> Table:
    """What every instance relies on."""
    table = _table("", "", "", "")
    table.show_header = False
    ray = status.ray
    if status.routers and status.router.address != status.routers[0].address:  # what routers share
        table.add_row(Text("clients", "bold"), f"{status.router.address}/v1", "", "")
    for router in status.routers if len(status.routers) > 1 else [status.router]:
        counts = f"{counted(sum(router.requests.values()), 'request')}, {sum(router.active.values())} active"
        table.add_row(
            Text("router", "bold"), f"{router.address}/v1", state(router.state), Text(router.reason or counts, "dim")
        )
    if ray is not None:
        members = f"{counted(len(ray.nodes), 'node')}: {', '.join(ray.nodes)}" if ray.nodes else ""
        table.add_row(Text("Ray", "bold"), ray.head, state(ray.state), Text(ray.reason or members, "dim"))
    return table


def next_step(status: FleetStatus) -> str:
    bad = next((i for i in status.instances if i.state == "unhealthy"), None)
    if status.unreachable:
        return f"bring {compressed(status.unreachable)} back, or llmfleet drain {status.unreachable[0]}"
    return f"llmfleet logs {bad.id}" if bad else "llmfleet up"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in KEPT_WHOLE)
    return table


def state(name: str) -> Text:
    return Text(name, COLOURS[name])


def _count(number: int | None) -> str:
    return "–" if number is None else grouped(number)


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)


def _remark(instance: InstanceStatus) -> str:
    restarts = [counted(instance.restarts, "restart")] if instance.restarts else []
    return ", ".join([*restarts, *([instance.reason] if instance.reason else [])])
