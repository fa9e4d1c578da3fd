"""Seeing that a node is gone for good, and what of its services can run on what is left.

A node that is away for a moment, or that only this machine cannot reach, is nobody's loss: a node counts as dead when
it did not answer for `dead_after_s` in one go and the router does not reach its engines either. One proposal for a
loss, one attempt at it; a node that comes back is told of and never put back by itself. So nothing flaps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from llmfleet.launch.drain import capacity_left
from llmfleet.launch.fleet import Fleet
from llmfleet.planner.errors import FleetError
from llmfleet.planner.inventory.model import Inventory, Placement, Service
from llmfleet.planner.plan import Instance, Plan, by_service, sealed

BACK_AFTER_S = 60.0
ENOUGH_GAIN = 1.01  # of capacity: less is no reason to touch a running fleet

Change = Literal["missing", "serving", "dead", "answers", "back"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What has become of a node. `seconds`: how long it was away, or has been back."""

    node: str
    change: Change
    seconds: float = 0.0

    def __str__(self) -> str:
        after = f"{self.seconds:.0f} s"
        return {
            "missing": "does not answer",
            "serving": "does not answer here, but the router reaches its engines: nothing is lost",
            "dead": f"has not answered for {after}, and the router does not reach its engines: it is taken for dead",
            "answers": f"answers again after {after}",
            "back": f"is back, and has answered for {after}: `llmfleet plan` and `llmfleet up` take it in again",
        }[self.change]


@dataclass
class Vigil:
    """How long each node has been away, or back. Times are seconds of any clock that only goes forward."""

    dead_after_s: float
    back_after_s: float = BACK_AFTER_S
    away: dict[str, float] = field(default_factory=dict)  # since when
    serving: set[str] = field(default_factory=set)  # away, but reached by the router
    dead: set[str] = field(default_factory=set)
    returned: dict[str, float] = field(default_factory=dict)  # dead ones that answer again, since when

    def see(self, now: float, unreachable: Collection[str], served: Collection[str]) -> list[Seen]:
        """`served`: nodes of whose engines the router reaches any."""
        seen = [change for node in sorted(unreachable) if (change := self._away(now, node, node in served))]
        for node in sorted(set(self.away) - set(unreachable)):
            seen.append(Seen(node, "answers", now - self.away.pop(node)))
            self.serving.discard(node)
        return seen

    def see_dead(self, now: float, answering: Collection[str]) -> list[Seen]:
        """The same of nodes that were taken for dead: which of them answer now."""
        seen = []
        for node in sorted(self.dead):
            if node not in answering:
                self.returned.pop(node, None)
                continue
            since = self.returned.setdefault(node, now)
            if now - since >= self.back_after_s:
                self.dead.discard(node)
                del self.returned[node]
                seen.append(Seen(node, "back", now - since))
        return seen

    def _away(self, now: float, node: str, served: bool) -> Seen | None:
        if node in self.dead:
            return None
        if served:
            told = node in self.serving
            self.serving.add(node)
            self.away[node] = now  # its time begins anew when the router loses it too
            return None if told else Seen(node, "serving")
        self.serving.discard(node)
        if node not in self.away:
            self.away[node] = now
            return Seen(node, "missing")
        if now - self.away[node] < self.dead_after_s:
            return None
        self.dead.add(node)
        return Seen(node, "dead", now - self.away.pop(node))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan without the dead nodes, of an inventory that excludes them. Capacities in requests/s, by service that
    lost any: as planned, as it is now, and as proposed."""

    inventory: Inventory
    plan: Plan
    dead: tuple[str, ...]
    before: Mapping[str, float]
    left: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def gains(self) -> bool:
        """Whether any service gets more out of it, and none less."""
        better = [s for s, left in self.left.items() if self.after[s] > left * ENOUGH_GAIN]
        return bool(better) and all(self.after[s] >= self.left[s] for s in self.after)


def propose(fleet: Fleet, dead: Collection[str], make: Callable[[Inventory], Plan]) -> Proposal | None:
    """Services that lost nothing stay where they are; the others are planned anew on what is left, within the policy.

    `make`: the plan of an inventory. None where no service lost anything. Raises FleetError where what is left has
    no plan.
    """
    lost = {i.service for i in fleet.plan.instances if set(i.nodes) & set(dead)}
    if not lost:
        return None
    inventory = without(fleet, dead, lost)
    plan = spliced(fleet, make(inventory), lost, dead)
    left = {c.service: c.share for c in capacity_left(fleet.plan, frozenset(dead))}
    before = {s: _capacity(fleet.plan, s) for s in sorted(lost)}
    return Proposal(
        inventory,
        plan,
        tuple(sorted(dead)),
        before,
        {s: before[s] * left[s] for s in before},
        {s: _capacity(plan, s) for s in before},
    )


def without(fleet: Fleet, dead: Collection[str], lost: Collection[str]) -> Inventory:
    """The inventory with the dead excluded, and with what lost nothing fixed where it runs. What a person has fixed
    stays fixed, but for instances on dead nodes."""
    members = by_service(fleet.plan.instances)
    services = tuple(
        _living(s, dead) if s.name in lost else _fixed(s, members.get(s.name, ())) for s in fleet.inventory.services
    )
    nodes = tuple(n.model_copy(update={"exclude": True}) if n.name in dead else n for n in fleet.inventory.nodes)
    return fleet.inventory.model_copy(update={"services": services, "nodes": nodes})


def spliced(fleet: Fleet, made: Plan, lost: Collection[str], dead: Collection[str]) -> Plan:
    """The new plan, with services that lost nothing to the letter as they are, so that none of their engines starts
    anew; and with other ports for new instances that would want theirs."""
    old = fleet.plan
    kept = {i.id: i for i in old.instances if i.service not in lost}
    hosts = {n.name: n.host for n in fleet.inventory.nodes}
    taken = {(hosts.get(i.nodes[0]), i.port) for i in kept.values()}
    instances = []
    for instance in made.instances:
        if instance.service not in lost:
            continue
        host, port = hosts.get(instance.nodes[0]), instance.port
        while (host, port) in taken:
            port += 1
        taken.add((host, port))
        instances.append(replace(instance, port=port))
    services = {s.name: s for s in (*made.services, *(s for s in old.services if s.name not in lost))}
    order = [s.name for s in made.services]
    return sealed(
        replace(
            made,
            instances=(*kept.values(), *instances),
            services=tuple(services[name] for name in order),
            head=old.head,
            router=replace(old.router, also=tuple(n for n in old.router.also if n not in dead)),
            hash="",
        )
    )


def _fixed(service: Service, instances: Iterable[Instance]) -> Service:
    placement = tuple(
        Placement(nodes=i.nodes, tp=i.tp, pp=i.pp if i.spans_nodes else None, pp_partition=i.pp_partition)
        for i in instances
    )
    return service.model_copy(update={"placement": placement or service.placement})


def _living(service: Service, dead: Collection[str]) -> Service:
    kept = tuple(p for p in service.placement if not set(p.nodes) & set(dead))
    if service.placement and not kept:
        raise FleetError(
            f"every instance of {service.name} was fixed by hand on nodes that are dead: {', '.join(sorted(dead))}",
            hint=f"Change `placement:` of {service.name} in the inventory, plan and `llmfleet up --skip-unreachable`.",
        )
    return service.model_copy(update={"placement": kept})


def _capacity(plan: Plan, service: str) -> float:
    return next((s.capacity_rps for s in plan.services if s.name == service), 0.0)


def fleet_for(fleet: Fleet, proposal: Proposal) -> Fleet:
    return replace(fleet, inventory=proposal.inventory, plan=proposal.plan)
