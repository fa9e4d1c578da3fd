"""The plan of a fleet: what runs where, why, and what is expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmfleet.planner.assemble import Facts, instances, service_plans
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog import catalog as packaged
from llmfleet.planner.choose.decision import Decision, decide
from llmfleet.planner.errors import PlanError
from llmfleet.planner.explain_fleet import missing, unused, warnings
from llmfleet.planner.inventory.digest import inventory_hash
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Objective, Plan, Rejected, RouterPlan, sealed
from llmfleet.planner.ports import address_of


def make_plan(inventory: Inventory, models: Mapping[str, Model], catalog: Catalog | None = None) -> Plan:
    """`models` by the name of the service. Equal inputs give equal plans, hash included.

    A fleet that is short of its demand still has a plan, which says so in its warnings. Raises PlanError for a
    placement that cannot be and for an inventory without nodes, UnknownNameError for GPUs that nobody knows.
    """
    return written_down(decided(inventory, models, catalog))


def decided(inventory: Inventory, models: Mapping[str, Model], catalog: Catalog | None = None) -> Decision:
    """What make_plan decides, for those who want to know more of it than a plan says. Raises as make_plan does."""
    if not inventory.nodes:
        raise PlanError("the inventory has no nodes", hint="nodes: at least one machine")
    return decide(inventory, models, catalog or packaged())


def written_down(decision: Decision) -> Plan:
    """The plan of a decision."""
    inventory = decision.inventory
    router = _router(inventory)
    facts = {c: Facts(decision, c) for c in decision.counts}
    made = instances(decision, facts, router)
    return sealed(
        Plan(
            cluster=inventory.cluster,
            head=router.node,
            instances=tuple(made),
            services=tuple(service_plans(decision, made)),
            router=router,
            unused=tuple(unused(decision)),
            rejected=_rejected(decision),
            warnings=(*inventory.warnings, *warnings(decision), *_advice(decision)),
            objectives=tuple(_objectives(decision)),
            price_per_hour=_price(decision),
            inventory_hash=inventory_hash(inventory),
        )
    )


def _advice(decision: Decision) -> list[str]:
    if not any(missing(decision, demand) for demand in decision.demands):
        return []
    from llmfleet.planner.remedy import advice  # what-if comes with it: only where it is needed

    return advice(decision)


def _router(inventory: Inventory) -> RouterPlan:
    wanted = inventory.router
    free = [n for n in inventory.nodes if not n.gpus and not n.exclude]
    usable = free or [n for n in inventory.nodes if not n.exclude] or list(inventory.nodes)
    node = inventory.node(wanted.node) if wanted.node else usable[0]
    also = tuple(name for name in wanted.also if name != node.name)
    return RouterPlan(
        node.name, wanted.bind or address_of(node), wanted.port, wanted.admin_port, also, wanted.address
    )


def _objectives(decision: Decision) -> Iterator[Objective]:
    for proof in decision.proofs:
        gap = float(f"{proof.gap:.3g}") if proof.gap < 1e6 else None
        yield Objective(proof.objective, float(f"{proof.value:.6g}"), gap)


def _price(decision: Decision) -> float | None:
    prices = {node.name: node.price for node in decision.inventory.nodes}
    used = [prices[name] for name in dict.fromkeys(node for p in decision.placed for node in p.nodes)]
    known = [price for price in used if price is not None]
    return float(f"{sum(known):.6g}") if known and len(known) == len(used) else None


def _rejected(decision: Decision) -> tuple[Rejected, ...]:
    """What cannot be, and what was passed over for something narrower."""
    found: dict[Rejected, None] = {}
    for options in decision.options.values():
        found |= dict.fromkeys(options.rejected)
        found |= dict.fromkeys(p.rejected() for p in options.pruned if p.wide not in decision.counts)
    return tuple(found)
