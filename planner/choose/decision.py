"""Everything the planner decided, before it is written down as a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmfleet.planner.candidates.build import Options, more_pipelines, options_of
from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand, demand_of
from llmfleet.planner.candidates.node_classes import NodeClass, node_classes
from llmfleet.planner.candidates.parts import parts_of, scarce
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.choose.fleet import Choice, choose
from llmfleet.planner.choose.pinned import Pins
from llmfleet.planner.choose.placing import Placed, place
from llmfleet.planner.choose.program import Proof
from llmfleet.planner.choose.shares import Spread, spread
from llmfleet.planner.errors import PlanError
from llmfleet.planner.inventory.model import Inventory, Policy
from llmfleet.planner.model.types import Model


@dataclass(frozen=True, slots=True)
class Decision:
    """`left`: free GPUs by node. `options`: of services that are not fixed by hand."""

    inventory: Inventory
    catalog: Catalog
    demands: tuple[Demand, ...]
    classes: tuple[NodeClass, ...]
    options: Mapping[str, Options]
    placed: tuple[Placed, ...]
    counts: Mapping[Candidate, int]
    spreads: Mapping[str, Spread]
    left: Mapping[str, tuple[int, ...]]
    fallbacks: frozenset[str]
    proofs: tuple[Proof, ...] = ()

    def of(self, service: str) -> dict[Candidate, int]:
        return {c: n for c, n in self.counts.items() if c.service == service}


def decide(inventory: Inventory, models: Mapping[str, Model], catalog: Catalog) -> Decision:
    """Raises PlanError for placements that cannot be, UnknownNameError for GPUs nobody knows."""
    demands = tuple(demand_of(service, _model(models, service.name)) for service in inventory.services)
    fallbacks = frozenset(s.fallback for s in inventory.services if s.fallback)
    whole = node_classes(inventory, catalog, {})
    pins = Pins({node: c for c in whole for node in c.nodes}, catalog)
    pinned = [placed for demand in demands for placed in pins.place(demand)]
    classes = node_classes(inventory, catalog, pins.taken) if pinned else whole
    free = [d for d in demands if not d.service.placement]
    options = {d.service.name: options_of(d, classes, catalog) for d in free}
    candidates = [c for name in options for c in options[name].candidates]
    choice = choose(free, candidates, classes, inventory.policy, fallbacks)
    chosen, left = _place(choice, classes, inventory.policy)
    if choice.short:
        more = _more(options, free, classes, left, inventory.policy, catalog)
        other = choose(free, [*candidates, *more], classes, inventory.policy, fallbacks) if more else choice
        if other.serves_more_than(choice):
            choice = other
            chosen, left = _place(choice, classes, inventory.policy)
    placed = tuple(_in_order([*pinned, *chosen], inventory))
    final = dict(Counter(p.candidate for p in placed))
    spreads = {d.service.name: spread(d, {c: n for c, n in final.items() if c.demand is d}) for d in demands}
    return Decision(
        inventory, catalog, demands, classes, options, placed, final, spreads, left, fallbacks, choice.proofs
    )


def _more(
    options: Mapping[str, Options], demands: Sequence[Demand], classes: tuple[NodeClass, ...],
    left: Mapping[str, tuple[int, ...]], policy: Policy, catalog: Catalog,
) -> list[Candidate]:  # fmt: skip
    """Candidates that only matter where demand is not met: parts of GPUs, smaller pipelines, some over idle nodes."""
    idle = frozenset(c.name for c in classes if any(len(left.get(node, ())) == len(c.free) for node in c.nodes))
    found = [c for d in demands for c in more_pipelines(d, options[d.service.name], classes, idle, catalog)]
    if policy.share_gpus and scarce(demands, classes):
        found += [c for d in demands for c in parts_of(d, classes, catalog)]
    return found


def _place(
    choice: Choice, classes: tuple[NodeClass, ...], policy: Policy
) -> tuple[list[Placed], dict[str, tuple[int, ...]]]:
    """Goodput spreads over all nodes, the other objectives over those they pay for, as few a service as they can."""
    if policy.objective == "goodput":
        return place(choice.counts, classes, {}, spread=True)
    return place(choice.counts, classes, choice.nodes, spread=policy.redundancy > 0)


def _model(models: Mapping[str, Model], service: str) -> Model:
    if models.get(service) is None:
        raise PlanError(
            f"services.{service}: its model's figures are not known", hint="config: a config.json of the model"
        )
    return models[service]


def _in_order(placed: list[Placed], inventory: Inventory) -> list[Placed]:
    """By service and then by node, as the inventory lists them; on a node by GPU."""
    services = {s.name: i for i, s in enumerate(inventory.services)}
    nodes = {n.name: i for i, n in enumerate(inventory.nodes)}
    return sorted(placed, key=lambda p: (services[p.candidate.service], nodes[p.nodes[0]], min(p.gpus[p.nodes[0]])))
