"""What every exporter works on and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llmfleet.launch.router.clusters import address_of
from llmfleet.launch.router.names import fallbacks, names_of
from llmfleet.launch.router.pools import RoutedPool, routed_pools
from llmfleet.planner.plan import Instance, Plan, ServicePlan

HEALTH_S = 1  # between two health checks, as Envoy has it
# What no other router here has, in the words of docs/router.md.
BOUND = "the bound on a hot prefix by weight"
WEIGHTS = "weights: instances of unequal speed get equal parts"
AFFINITY = "prefix affinity"
CAPS = "the cap on running requests of engines that never refuse"
LONG = "the long pool: prompts of all lengths go to the main one"
FALLBACK = "the fallback service"
PRIORITY = "low priority"
KEYS = "keys of clients and their limits"
HEADERS = "answers' headers that name instance, pool and attempts"
UNKNOWN = "404 for models that nobody serves"


@dataclass(frozen=True, slots=True)
class Export:
    """`text` goes into a file; `dropped` are the things of the plan's routing that are lost."""

    text: str
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    plan: Plan
    hosts: Mapping[str, str]

    @property
    def services(self) -> Iterator[tuple[ServicePlan, RoutedPool]]:
        """Every service that has instances, with the pool of its ordinary requests."""
        for service in self.plan.services:
            own = {pool.role: pool for pool in routed_pools(self.plan, service)}
            pool = own.get("main") or own.get("fallback") or own.get("long")
            if pool is not None:
                yield service, pool

    def pools(self, service: ServicePlan) -> tuple[RoutedPool, ...]:
        return routed_pools(self.plan, service)

    def address(self, instance: Instance) -> str:
        """host:port, IPv6 in brackets."""
        host = address_of(instance.nodes[0], self.hosts)
        return f"[{host}]:{instance.port}" if ":" in host else f"{host}:{instance.port}"

    def names(self, service: ServicePlan) -> tuple[str, ...]:
        return names_of(self.plan, service)

    def fallback(self, service: ServicePlan) -> tuple[ServicePlan, RoutedPool] | None:
        """The nearest service that stands in and has instances."""
        alive = {s.name: (s, pool) for s, pool in self.services}
        return next((alive[s.name] for s in fallbacks(self.plan, service) if s.name in alive), None)

    def missing(self, *always: str, capped: bool = False, fallback: bool = False) -> tuple[str, ...]:
        """What is always dropped, and what is dropped where the plan has it and the target does not (False)."""
        pools = [pool for service in self.plan.services for pool in self.pools(service)]
        found = [*always]
        if not capped and any(pool.capped for pool in pools):
            found.append(CAPS)
        if any(pool.role == "long" and pool.over_tokens for pool in pools):
            found.append(LONG)
        if not fallback and any(self.fallback(service) for service, _ in self.services):
            found.append(FALLBACK)
        return tuple(found)


def scaled(weights: list[int], most: int) -> list[int]:
    """The same proportions in 1..most, for those that take no larger ones."""
    largest = max(weights)
    return [max(1, round(w * most / largest)) if largest > most else max(1, w) for w in weights]
