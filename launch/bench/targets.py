"""What a plan offers to be measured: every instance at its own address, every service behind the router."""

from __future__ import annotations

from collections.abc import Iterable

from llmfleet.launch.bench.client import address
from llmfleet.launch.bench.measure import Target
from llmfleet.launch.router.names import served_names
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.near import nearest
from llmfleet.planner.plan import Instance, Plan
from llmfleet.planner.ports import address_of

ROUTER = "router"


def instance_targets(inventory: Inventory, plan: Plan, chosen: Iterable[str] = ()) -> list[tuple[Instance, Target]]:
    """All of them, or those chosen by instance or service. Raises UnknownNameError."""
    known: dict[str, tuple[Instance, ...]] = {i.id: (i,) for i in plan.instances}
    known |= {s.name: tuple(i for i in plan.instances if i.service == s.name) for s in plan.services}
    picked: dict[str, Instance] = {}
    for name in chosen or list(known):
        if name not in known:
            raise UnknownNameError("instance or service of the plan", name, nearest(name, known))
        picked |= {i.id: i for i in known[name]}
    return [(i, _instance_target(inventory, plan, i)) for i in picked.values()]


def _instance_target(inventory: Inventory, plan: Plan, instance: Instance) -> Target:
    host = address_of(inventory.node(instance.nodes[0]))
    where = address(f"http://{_bracketed(host)}:{instance.port}")
    return Target(instance.id, where, served_names(plan, instance)[0], instance.task)


def router_targets(plan: Plan, chosen: Iterable[str] = (), key: str | None = None) -> list[Target]:
    """Services that have traffic of their own, through the router. Raises UnknownNameError."""
    services = {s.name: s for s in plan.services}
    names = tuple(chosen) or tuple(n for n, s in services.items() if s.demand_rps > 0)
    for name in names:
        if name not in services:
            raise UnknownNameError("service", name, nearest(name, services))
    where = address(f"http://{_bracketed(plan.router.address or plan.router.bind)}:{plan.router.port}")
    return [Target(f"{name} through the router", where, name, services[name].task, key) for name in names]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
