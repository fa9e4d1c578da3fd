"""Which instances the router treats alike, and where a service's requests go when those cannot take them."""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.launch.commands.engines import refuses_when_full
from llmfleet.launch.router.names import fallbacks
from llmfleet.planner.plan import Instance, Plan, Pool, Role, ServicePlan, Task

ROLES: tuple[Role, ...] = ("main", "long", "fallback")


@dataclass(frozen=True, slots=True)
class Member:
    instance: Instance
    pool: str
    weight: int  # against the other members

    @property
    def cap(self) -> int | None:
        """Requests that the router lets run on it at once; none where the engine refuses by itself."""
        return None if refuses_when_full(self.instance) else self.instance.max_concurrency


@dataclass(frozen=True, slots=True)
class RoutedPool:
    """All instances of a service whose pools have one role: one cluster of the router, with one hash ring."""

    service: str
    task: Task
    role: Role
    members: tuple[Member, ...]
    over_tokens: int | None = None

    @property
    def cluster(self) -> str:
        return f"{self.service}.{self.role}"

    @property
    def capped(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.cap is not None)


@dataclass(frozen=True, slots=True)
class ServicePools:
    """Where a service's requests go. `spare` pools run the same model, `degraded` ones stand in for it."""

    service: ServicePlan
    primary: RoutedPool | None
    long: RoutedPool | None
    spare: tuple[RoutedPool, ...]
    degraded: tuple[RoutedPool, ...]


def routed_pools(plan: Plan, service: ServicePlan) -> tuple[RoutedPool, ...]:
    return tuple(pool for role in ROLES if (pool := _routed(plan, service, role)) is not None)


def service_pools(plan: Plan, service: ServicePlan) -> ServicePools:
    own = routed_pools(plan, service)
    primary = _primary(own)
    long = next((pool for pool in own if pool.role == "long" and pool.over_tokens is not None), None)
    others = tuple(pool for pool in own if pool != primary)
    stand_ins = (_primary(routed_pools(plan, other)) for other in fallbacks(plan, service))
    return ServicePools(
        service=service,
        primary=primary,
        long=None if long == primary else long,
        spare=tuple(pool for pool in others if pool.role == "long"),
        degraded=(
            *(pool for pool in others if pool.role == "fallback"),
            *(pool for pool in stand_ins if pool is not None),
        ),
    )


def _primary(own: tuple[RoutedPool, ...]) -> RoutedPool | None:
    """Takes the ordinary requests: the main pool, or that of a service that is nothing but a fallback."""
    by_role = {pool.role: pool for pool in own}
    return by_role.get("main") or by_role.get("fallback") or by_role.get("long")


def _routed(plan: Plan, service: ServicePlan, role: Role) -> RoutedPool | None:
    planned = [pool for pool in service.pools if pool.role == role]
    members = tuple(m for pool in planned for m in _members(plan, pool, alone=len(planned) == 1))
    limits = [pool.over_tokens for pool in planned if pool.over_tokens is not None]
    return RoutedPool(service.name, service.task, role, members, min(limits, default=None)) if members else None


def _members(plan: Plan, pool: Pool, *, alone: bool) -> list[Member]:
    """An instance's weight counts inside its pool; where the router joins several, their shares scale it."""
    instances = plan.those(pool.instances)
    if alone:
        return [Member(i, pool.name, i.weight) for i in instances]
    total = sum(i.weight for i in instances)
    return [Member(i, pool.name, max(1, round(1000 * pool.share * i.weight / total))) for i in instances]
