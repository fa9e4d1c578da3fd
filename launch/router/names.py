"""What clients may call a service, and what its engines answer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Instance, Plan, ServicePlan


def client_names(plan: Plan) -> Mapping[str, ServicePlan]:
    """The service that each name stands for: service names, and model ids that no other service claimed before."""
    names = {service.name: service for service in plan.services}
    for service in plan.services:
        names.setdefault(service.model, service)
    return names


def names_of(plan: Plan, service: ServicePlan) -> tuple[str, ...]:
    """Names that clients may use for the service, its own first."""
    return tuple(name for name, meant in client_names(plan).items() if meant.name == service.name)


def fallbacks(plan: Plan, service: ServicePlan) -> Iterator[ServicePlan]:
    """The services that take what this one cannot, nearest first."""
    by_name = {s.name: s for s in plan.services}
    seen, name = {service.name}, service.fallback
    while name is not None and name not in seen:
        if name not in by_name or by_name[name].task != service.task:
            raise InputError(
                f'service "{service.name}" falls back to "{name}", which is no {service.task} service of the plan',
                hint="Name a service of the same task in `fallback`, or leave it out.",
            )
        yield by_name[name]
        seen.add(name)
        name = by_name[name].fallback


def served_names(plan: Plan, instance: Instance) -> tuple[str, ...]:
    """Every model name that a request to the instance may carry, its own service first.

    A request keeps its body when it spills, so engines of a fallback answer to the names of those they stand in for.
    """
    own = next(s for s in plan.services if s.name == instance.service)
    stands_in_for = [s for s in plan.services if any(f.name == own.name for f in fallbacks(plan, s))]
    names = [name for service in (own, *stands_in_for) for name in (*names_of(plan, service), service.model)]
    return tuple(dict.fromkeys(names))
