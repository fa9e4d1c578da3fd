"""What to add to a fleet that is short: arithmetic says how many nodes, and a plan with them whether that is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from llmfleet.planner.candidates.build import options_of
from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.node_classes import node_classes
from llmfleet.planner.choose.decision import Decision, decide
from llmfleet.planner.choose.fleet import FEW_KINDS
from llmfleet.planner.choose.rates import SMALLEST, kinds
from llmfleet.planner.explain_fleet import missing
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.what_if import ask

MOST_PLANS = 8
MOST_PLANNED = 1_000  # nodes; a larger fleet takes seconds to plan, and so long once more for each try
WIDEST = 8  # GPUs of a node that nobody has yet


@dataclass(frozen=True, slots=True)
class Kind:
    """Nodes that could be added, as `+N` of what-if calls them, and the requests/s of a service that one takes."""

    words: str
    rate: float
    price: float | None = None

    @property
    def here(self) -> bool:
        """Whether the fleet has such nodes: names have no spaces."""
        return " " not in self.words

    def nodes(self, rate: float) -> int:
        return max(1, ceil(rate / self.rate))


def advice(decision: Decision) -> list[str]:
    """What would close the gap of services that are short, and which of them no number of nodes would help."""
    short = [d for d in decision.demands if missing(decision, d) and not d.service.placement]
    options = {d.service.name: _here(decision, d) or _elsewhere(decision, d) for d in short}
    said = [line for d in short if (line := _none_here(d, options[d.service.name]))]
    helped = {name: found for name, found in options.items() if found}
    return said + ([_closing(decision, helped)] if helped else [])


def _here(decision: Decision, demand: Demand) -> list[Kind]:
    """Kinds of node that the fleet has, where such a node serves the whole mix inside the SLO."""
    classes = node_classes(decision.inventory, decision.catalog, {})
    options = decision.options[demand.service.name]
    if any(d.service.placement for d in decision.demands):  # classes without what is fixed by hand
        options = options_of(demand, classes, decision.catalog)
    best: dict[str, Kind] = {}
    for c in options.candidates:
        name, rate = c.node_class.name, _rate_of_a_node(c)
        if rate > max(SMALLEST, best[name].rate if name in best else 0.0):
            best[name] = Kind(name, rate, c.node_class.price)
    return list(best.values())


def _elsewhere(decision: Decision, demand: Demand) -> list[Kind]:
    """The smallest node of the catalogue's GPUs that would do, by its memory."""
    if demand.service.nodes:
        return []
    found: list[tuple[float, Kind]] = []
    for gpu in decision.catalog.gpus:
        node = Node(name="new", host="new", gpus=f"{WIDEST} x {gpu.name}")
        classes = node_classes(Inventory.model_construct(nodes=(node,), services=()), decision.catalog, {})
        able = [c for c in options_of(demand, classes, decision.catalog).candidates if _rate_of_a_node(c) > SMALLEST]
        if able:
            c = min(able, key=lambda c: c.slot)
            found.append((c.slot * gpu.memory_mib, Kind(f"{c.slot} x {gpu.name}", _rate(c))))
    return [min(found, key=lambda pair: pair[0])[1]] if found else []


def _rate_of_a_node(c: Candidate) -> float:
    if c.stages:
        return 0.0
    return _rate(c) * (len(c.node_class.free) // c.slot if c.span == 1 else 1 / c.span)


def _rate(c: Candidate) -> float:
    """Of the service's own mix, inside the SLO; 0 where a kind of request would go unserved."""
    load = 0.0
    for bucket in kinds(c.demand):
        rate = c.ratings[bucket.name].inside.rate if bucket.name in c.ratings else 0.0
        load += bucket.part / rate if rate > SMALLEST else inf
    return 1 / load if load else 0.0


def _none_here(demand: Demand, found: Sequence[Kind]) -> str:
    name = demand.service.name
    if not found and demand.service.nodes:
        return f"{name}: no number of nodes like those that it may use would do"
    if not found:
        return f"{name}: no number of nodes would do, whatever GPU of the catalogue they had"
    if not found[0].here:
        return f"{name}: no nodes like those here would do; the smallest of the catalogue that would: {found[0].words}"
    return ""


def _closing(decision: Decision, options: Mapping[str, Sequence[Kind]]) -> str:
    added: Counter[str] = Counter()
    now, plans = decision, MOST_PLANS
    while lacking := _lacking(now, options):
        if not plans:
            return f"more nodes may not close the gap: with {_nodes(added)}, {_and(lacking)} would still be short"
        for name, rate in lacking.items():
            kind = _best(options[name], rate)
            added[kind.words] += kind.nodes(rate)
        if not _quick(decision, added):
            return (
                f"about {_nodes(added)} would close the gap, by arithmetic: such a fleet takes long to plan, so that "
                f"it was not planned again (--what-if {_terms(decision, added)} does)"
            )
        now, plans = _with(decision, added), plans - 1
    return _closed(decision, _trimmed(decision, added, options, plans), options)


def _trimmed(
    decision: Decision, added: Counter[str], options: Mapping[str, Sequence[Kind]], plans: int
) -> Counter[str]:
    """Without nodes that were counted in vain: services move, and make room for one another."""
    for _ in range(plans):
        fewer = added - Counter([max(added, key=lambda kind: added[kind])])
        if not fewer or _lacking(_with(decision, fewer), options):
            break
        added = fewer
    return added


def _closed(decision: Decision, added: Mapping[str, int], services: Iterable[str]) -> str:
    again = f"planned again with {'it' if sum(added.values()) == 1 else 'them'}"
    short = f"{_and(services)} would be short of nothing (--what-if {_terms(decision, added)})"
    return f"{_nodes(added)} would close the gap: {again}, {short}"


def _lacking(decision: Decision, services: Container[str]) -> dict[str, float]:
    asked = (d for d in decision.demands if d.service.name in services)
    return {d.service.name: rate for d in asked if (rate := missing(decision, d))}


def _best(found: Sequence[Kind], rate: float) -> Kind:
    """The cheapest where all have prices, else the fewest."""
    priced = all(k.price is not None for k in found)
    return min(found, key=lambda k: (k.nodes(rate) * (k.price or 0.0) if priced else k.nodes(rate), k.words))


def _quick(decision: Decision, added: Mapping[str, int]) -> bool:
    candidates = [c for o in decision.options.values() for c in o.candidates]
    nodes = len(decision.inventory.nodes) + sum(added.values())
    return nodes <= MOST_PLANNED and len(candidates) <= FEW_KINDS and not any(c.stages for c in candidates)


def _with(decision: Decision, added: Mapping[str, int]) -> Decision:
    """Services come before all preferences, so what a node would cost does not matter."""
    models = {d.service.name: d.model for d in decision.demands}
    terms = [f"+{n} {kind}" for kind, n in added.items()]
    then = ask([*terms, "policy.objective=goodput"], decision.inventory, decision.catalog)
    return decide(then, models, decision.catalog)


def _terms(decision: Decision, added: Mapping[str, int]) -> str:
    """Nodes of the catalogue have no price, and the lowest cost cannot be planned without."""
    said = " ".join(f'"+{n} {kind}"' for kind, n in added.items())
    unpriced = decision.inventory.policy.objective == "cost" and any(" " in kind for kind in added)
    return f'{said} "policy.objective=goodput"' if unpriced else said


def _nodes(added: Mapping[str, int]) -> str:
    words = ((n, f"with {kind}" if " " in kind else f"like {kind}") for kind, n in added.items())
    return _and(f"{n:,} more node{'s' * (n > 1)} {kind}" for n, kind in words)


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
