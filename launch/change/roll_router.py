"""What the router serves while a fleet changes from one plan to another. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from llmfleet.planner.plan import Instance, Plan, Pool, ServicePlan


def transition(plan: Plan, standing: Iterable[Instance], waiting: Collection[str]) -> Plan:
    """The plan as far as it runs, with what still runs of an older one in the places of what does not run yet.

    `standing`: instances of older plans that run. `waiting`: ids of the plan's instances that do not run yet.
    Instances of services that the plan has no more are left out: their requests finish, new ones are refused.
    """
    names = {service.name for service in plan.services}
    old = {i.id: i for i in standing if i.service in names}
    present = {i.id: i for i in plan.instances if i.id not in waiting} | old
    services = tuple(_service(service, old, present) for service in plan.services)
    placed = {name for s in services for pool in s.pools for name in pool.instances}
    return replace(plan, instances=tuple(i for name, i in present.items() if name in placed), services=services)


def _service(service: ServicePlan, old: dict[str, Instance], present: dict[str, Instance]) -> ServicePlan:
    planned = {name for pool in service.pools for name in pool.instances}
    guests = tuple(name for name, i in old.items() if i.service == service.name and name not in planned)
    pools = [replace(p, instances=tuple(n for n in p.instances if n in present)) for p in service.pools]
    if guests and pools:
        home = next((n for n, p in enumerate(pools) if p.role == "main"), 0)
        pools[home] = replace(pools[home], instances=(*pools[home].instances, *guests))
    return replace(service, pools=tuple(_lent(pools)))


def _lent(pools: list[Pool]) -> list[Pool]:
    """A pool all of whose instances are still to come is served by those of the service's other pools meanwhile."""
    serving = tuple(dict.fromkeys(name for pool in pools for name in pool.instances))
    roles = {pool.role for pool in pools if pool.instances}
    lent = []
    for pool in pools:
        borrows = pool.role not in roles and pool.role != "fallback"
        roles.add(pool.role)
        lent.append(replace(pool, instances=serving) if borrows else pool)
    return lent
