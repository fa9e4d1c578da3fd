"""A plan as the memo of a good engineer: the decision, the numbers behind it, what was not chosen, what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import counted, grouped, percent
from llmfleet.cli.render.names import compressed
from llmfleet.cli.render.plan_groups import Group, groups_of, losses
from llmfleet.cli.render.plan_tables import group_label, memory_table, services_table
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

FEW = 6  # rejections and leftovers that are shown without being asked
MANY = 12  # kinds of instance whose memory and reasons are


def render_plan(plan: Plan, inventory: Inventory, console: Console, *, why: bool = False) -> None:
    """`why`: every rejection and leftover, not only the first few."""
    groups = list(groups_of(plan))
    console.print(headline(plan, inventory))
    console.print()
    for line in verdict(plan):
        console.print(line)
    console.print()
    if groups:
        console.print(services_table(groups, inventory, console.width))
        console.print()
        few = groups if why else groups[:MANY]
        console.print(memory_table(few, console.width))
        _print_rest_of(len(groups) - len(few), console)
        console.print()
        reasons = _reasons(groups)
        shown = reasons if why else reasons[:MANY]
        console.print(_section("why", shown))
        _print_rest_of(len(reasons) - len(shown), console)
        console.print()
    _print_rest(plan, console, why=why)
    console.print(Text(f"next: {_next(plan)}", "dim"))


def headline(plan: Plan, inventory: Inventory) -> Text:
    gpus = [parse_gpus(n.gpus) for n in inventory.nodes if n.gpus]
    slots = sum(g.count for g in gpus if g.name.upper().startswith("CPU"))
    cards = sum(g.count for g in gpus) - slots
    has = [counted(cards, "GPU")] * (cards > 0) + [counted(slots, "CPU slot")] * (slots > 0)
    what = f": {', '.join([counted(len(inventory.nodes), 'node'), *has])} → {counted(len(plan.instances), 'instance')}"
    return Text.assemble((plan.cluster, "bold"), what, f", plan {plan.hash[:6]}")


def _reasons(groups: Iterable[Group]) -> list[tuple[Text, Text]]:
    """Said once where several services have the same reason on the same nodes."""
    same: dict[tuple[str, str], list[Group]] = {}
    for g in groups:
        same.setdefault((g.nodes, g.one.reason), []).append(g)
    return [(group_label(members), Text(why)) for (_, why), members in same.items()]


def verdict(plan: Plan) -> Iterator[Text]:
    short = [s for s in plan.services if not s.slo_met]
    if not short:
        yield Text(f"Short of nothing{_least_spare(plan)}.", "green")
    for warning in plan.warnings:
        yield Text.assemble(("! ", "bold yellow"), warning)
    left = sorted(losses(plan))
    if left and left[0][0] >= 1:
        yield Text("Any one node may fail: every service still serves its peak.")
    elif left:
        said = ", ".join(f"{name} {percent(part)}" for part, name in left if part < 1)
        yield Text(f"The loss of one node can leave less than the peak: {said}.")


def _least_spare(plan: Plan) -> str:
    loaded = [(s.capacity_rps / s.demand_rps, s.name) for s in plan.services if s.demand_rps]
    if not loaded:
        return ""
    spare, name = min(loaded)
    return f"; {name} has the least to spare: {spare:.{1 if spare < 10 else 0}f} times its peak"


def _print_rest(plan: Plan, console: Console, *, why: bool) -> None:
    """What was not chosen and what is left over."""
    everything = [(Text(f"{r.service} {r.shape}"), Text(f"{r.node_class}: {r.reason}")) for r in plan.rejected]
    rejected = everything if why else [everything[i] for i in _telling(plan)]
    unused: dict[tuple[str, int], list[str]] = {}
    for u in plan.unused:
        unused.setdefault((u.reason, len(u.gpus)), []).append(u.node)
    left = [(Text(f"{compressed(nodes)}: {counted(n, 'GPU')}"), Text(reason)) for (reason, n), nodes in unused.items()]
    for title, lines, count in (("rejected", rejected, len(everything)), ("not used", left, len(left))):
        if lines:
            shown = lines if why else lines[:FEW]
            console.print(_section(title, shown))
            _print_rest_of(count - len(shown), console)
            console.print()


def _print_rest_of(count: int, console: Console) -> None:
    if count:
        console.print(Text(f"  and {grouped(count)} more: llmfleet plan --why", "dim"))


def _telling(plan: Plan) -> list[int]:
    """The last rejection of each service on each class, the widest shape, which says the most. Services take turns, so
    that the first few are of many."""
    last = {(r.service, r.node_class): i for i, r in enumerate(plan.rejected)}
    turns: dict[str, int] = {}
    order = []
    for service, _ in last:
        turns[service] = turns.get(service, -1) + 1
        order.append(turns[service])
    return [i for _, i in sorted(zip(order, last.values(), strict=True))]


def _section(title: str, lines: Iterable[tuple[Text, Text]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(title, "bold underline"), "")
    for label, text in lines:
        table.add_row(Text("  ") + label, text)
    return table


def _next(plan: Plan) -> str:
    return "llmfleet doctor · llmfleet up --dry-run · llmfleet up" if plan.instances else "add GPUs to the inventory"
