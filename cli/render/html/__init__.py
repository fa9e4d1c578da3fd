"""A plan as one HTML page that stands alone: no network, no fonts, nothing to install."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmfleet.cli.output import counted, grouped, percent
from llmfleet.cli.render.html.charts import charts_of
from llmfleet.cli.render.html.fleet import node_cards
from llmfleet.cli.render.html.flow import flow_of
from llmfleet.cli.render.html.kinds import Kind, kinds_of
from llmfleet.cli.render.html.services import service_cards
from llmfleet.cli.render.names import compressed
from llmfleet.cli.render.plan import headline, verdict
from llmfleet.planner.curves import Curve
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan, Rejected, Unused

WIDE, NARROW = 1120, 356  # pixels that the flow picture is drawn for: a desk, a phone


def plan_page(plan: Plan, inventory: Inventory, curves: Sequence[Curve]) -> str:
    """The page's text. `curves` are those of the plan's instances."""
    kinds = kinds_of(plan)
    colors = {service.name: i for i, service in enumerate(plan.services)}
    environment = Environment(
        loader=PackageLoader("llmfleet.cli"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"grouped": grouped, "percent": percent, "counted": counted, "names": compressed}
    return environment.get_template("plan.html").render(
        plan=plan,
        headline=headline(plan, inventory),
        verdict=[(line.plain, str(line.style)) for line in verdict(plan)],
        services=service_cards(plan, inventory),
        kinds=kinds,
        colors=colors,
        cards=node_cards(plan, inventory, kinds),
        flows=[flow_of(plan, kinds, WIDE), flow_of(plan, kinds, NARROW)],
        charts=charts_of(curves, kinds),
        why=_why(kinds),
        rejected=_by_service(plan.rejected),
        unused=_unused(plan.unused),
    )


def _why(kinds: Sequence[Kind]) -> list[tuple[Kind, str]]:
    return [(kind, kind.one.reason) for kind in kinds]


def _by_service(rejected: Iterable[Rejected]) -> dict[str, list[Rejected]]:
    found: dict[str, list[Rejected]] = {}
    for each in rejected:
        found.setdefault(each.service, []).append(each)
    return found


def _unused(places: Iterable[Unused]) -> list[tuple[str, int, str]]:
    """Nodes, GPUs on all of them, reason."""
    found: dict[str, list[Unused]] = {}
    for each in places:
        found.setdefault(each.reason, []).append(each)
    return [(compressed(u.node for u in alike), sum(len(u.gpus) for u in alike), r) for r, alike in found.items()]
