"""The choice of what runs where: objectives in their order over the columns of a mixed-integer program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.choose.columns import FULL, Columns, add_kinds, add_pieces, columns_of
from llmfleet.planner.choose.losses import add_losses
from llmfleet.planner.choose.program import CLOSE, MOST_NODES, SAME, Proof, Terms
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Policy

# Preferences among plans that serve alike are not worth a proof on fleets of many kinds.
FEW_KINDS = 150
LOOSE_GAP = 0.02
FEW_NODES, SOME_NODES = 60, 200
GIVES_UP = 1e-5  # of spare capacity, for fewer kinds of instance
SAME_SERVICE = 1e-3  # what another plan must serve more to be worth its price
# Objectives that say how much is served.
RUNS, URGENT, INSIDE, AFTER_LOSS, AT_ALL = (
    "services that run", "demand of high priority", "demand inside the SLO", "demand after a loss", "demand at all",
)  # fmt: skip
STAND_INS = "fallbacks that run"
SERVING = frozenset({RUNS, URGENT, INSIDE, AFTER_LOSS, AT_ALL, STAND_INS})


@dataclass(frozen=True, slots=True)
class Choice:
    """Instances of each candidate, nodes in use of each class, and how well each objective is proven."""

    counts: Mapping[Candidate, int]
    nodes: Mapping[str, int]
    proofs: tuple[Proof, ...]

    @property
    def short(self) -> bool:
        """Whether a service does not run, or not all of what is asked of it is served."""
        return any(not p.full for p in self._serving())

    def serves_more_than(self, other: Choice) -> bool:
        """By what comes before all preferences, in its order."""
        for mine, theirs in zip(self._serving(), other._serving(), strict=True):
            if abs(mine.value - theirs.value) > SAME_SERVICE * max(1.0, abs(theirs.value)):
                return mine.value > theirs.value
        return False

    def _serving(self) -> list[Proof]:
        return [p for p in self.proofs if p.objective in SERVING]


def choose(
    demands: Sequence[Demand],
    candidates: Sequence[Candidate],
    classes: Sequence[NodeClass],
    policy: Policy,
    fallbacks: frozenset[str],
) -> Choice:
    """How many instances of each candidate. Objectives, each kept while the next is optimized:

    every service runs · demand inside its SLO · that after the loss of a node · demand at all · one kind of instance
    for long prompts, with the most room · precision as preferred · fallbacks run · the least load, summed over
    services (or the lowest cost, the fewest nodes) · fallbacks off their GPUs · fewest kinds of
    instance · the least load of fallbacks · narrowest instances.
    """
    if not candidates:
        return Choice({}, {}, ())
    own = [d for d in demands if d.service.name not in fallbacks]
    columns = columns_of(demands, candidates, classes, policy)
    program = columns.program
    if policy.redundancy:
        add_losses(columns, own, classes, policy.redundancy)
    if policy.objective == "goodput":
        add_pieces(columns, demands)
    if len(candidates) <= FEW_KINDS:
        add_kinds(columns)
    _search(columns, demands, own, classes, policy)
    if program.relaxed:
        program.round()
        _search(columns, demands, own, classes, policy)
    return Choice(
        {c: round(program.value(n)) for c, n in columns.counts.items() if round(program.value(n)) > 0},
        {name: round(program.value(n)) for name, n in columns.nodes.items()},
        tuple(program.proofs),
    )


def _search(
    columns: Columns, demands: Sequence[Demand], own: Sequence[Demand], classes: Sequence[NodeClass], policy: Policy,
) -> None:  # fmt: skip
    program, few = columns.program, bool(columns.kinds)
    _serve(columns, demands, own)
    if policy.objective == "goodput":
        _fill(columns, "load", own, few=few)
    else:
        program.minimize(policy.objective, _node_prices(columns, classes, policy))
    spared = _spared(columns, own)
    if spared:
        program.minimize("GPUs that fallbacks take", spared, nodes=FEW_NODES, gap=1e-4 if few else LOOSE_GAP)
    if few:
        program.minimize("kinds", dict.fromkeys(columns.kinds.values(), 1.0), nodes=FEW_NODES)
    if policy.objective == "goodput" and len(own) < len(demands):
        _fill(columns, "load of fallbacks", [d for d in demands if d not in own], few=few)
    if few:
        widths = _widths(columns, fill=policy.objective == "goodput")
        program.minimize("widths", widths, bound=-1e12, gap=1e-6, nodes=FEW_NODES)


def _serve(columns: Columns, demands: Sequence[Demand], own: Sequence[Demand]) -> None:
    """What comes before all preferences.

    Of many candidates, some part of a demand that is not met is as good as another that is as large within
    SAME_SERVICE: telling them apart would take most of the time.
    """
    program, few = columns.program, bool(columns.kinds)
    nodes = MOST_NODES if few else SOME_NODES
    gap, given_up = (CLOSE, SAME) if few else (SAME_SERVICE, SAME_SERVICE)
    most = partial(program.maximize, nodes=nodes, gap=gap, tolerance=given_up)
    running = _of(own, columns.runs, columns.runs_long, columns.enough)
    program.maximize(RUNS, running, bound=len(running))
    urgent = _of(own, columns.urgent)
    if urgent:
        # Services without low priority count too: a part of one must not be bought with another's whole.
        ordinary = {n: c for n, c in columns.inside.items() if n not in columns.urgent}
        most(URGENT, {**urgent, **_of(own, ordinary)}, bound=_urgent_bound(own))
    served = _of(own, columns.inside)
    most(INSIDE, served, bound=len(served))
    kept = _of(own, columns.kept)
    if kept:
        most(AFTER_LOSS, kept, bound=len(kept))
    best = _of(own, columns.best)
    most(AT_ALL, best, bound=len(best))
    if columns.long_kinds:
        gap, nodes = (1e-4, MOST_NODES) if few else (LOOSE_GAP, FEW_NODES)
        program.minimize("kinds for long prompts", _long_kinds(columns), gap=gap, nodes=nodes)
        if not few:
            program.settle(columns.long_kinds.values())  # others as few would be worth little, and take the most time
    liked = dict.fromkeys(columns.preferred.values(), 1.0)
    if liked:
        program.maximize("precision", liked, bound=len(liked))
    if len(own) == len(demands):
        return
    everything = _of(demands, columns.runs, columns.runs_long, columns.enough)
    program.maximize(STAND_INS, everything, bound=len(everything))
    served = _of(demands, columns.inside, columns.best)
    program.maximize("demand of fallbacks", served, bound=len(served))


def _of(demands: Sequence[Demand], *found: Mapping[str, int]) -> Terms:
    names = {d.service.name for d in demands}
    return {column: 1.0 for by in found for name, column in by.items() if name in names}


def _urgent_bound(demands: Sequence[Demand]) -> float:
    return sum(1 - (d.service.traffic.low_priority if d.service.traffic else 0.0) for d in demands if d.rate > 0)


def _long_kinds(columns: Columns) -> Terms:
    """Fewest; among as few, those where the most tokens fit into one instance: rare, longer prompts then find room."""
    most = max(c.kv_tokens for c in columns.long_kinds) or 1.0
    little = 1 / (2 * len(columns.long_kinds))
    return {n: 1 + little * (1 - c.kv_tokens / most) for c, n in columns.long_kinds.items()}


def _spared(columns: Columns, own: Sequence[Demand]) -> Terms:
    """GPUs of fallbacks where a service that is none could use them."""
    names = {d.service.name for d in own}
    theirs = [c for c in columns.counts if c.service in names and not c.engine.exception]
    useful = {t.node_class.name for c in theirs for t in c.takes}
    return {
        n: c.gpus
        for c, n in columns.counts.items()
        if c.service not in names and any(t.node_class.name in useful for t in c.takes)
    }


def _fill(columns: Columns, name: str, demands: Sequence[Demand], *, few: bool) -> None:
    """The least load, summed over the services."""
    falls = {column: -slope for d in demands for column, slope in columns.pieces[d.service.name].items()}
    columns.program.minimize(
        name, falls, offset=FULL * len(demands), tolerance=GIVES_UP,
        gap=1e-4 if few else LOOSE_GAP, nodes=MOST_NODES if few else SOME_NODES,
    )  # fmt: skip


def _node_prices(columns: Columns, classes: Sequence[NodeClass], policy: Policy) -> Terms:
    without = [c.name for c in classes if c.price is None]
    if policy.objective == "cost" and without:
        raise InputError(
            f"policy.objective is cost, but {', '.join(without)} has no price", hint="add price: 3.67/h to those nodes"
        )
    return {columns.nodes[c.name]: (c.price or 0.0) if policy.objective == "cost" else 1.0 for c in classes}


def _widths(columns: Columns, *, fill: bool) -> Terms:
    """With `fill` all usable GPUs first; then the narrower instances: fewer GPUs fail together. Of parts the fewest."""
    widest = max(c.gpus for c in columns.counts)
    total = 1 + sum(c.gpus * widest for c in columns.counts)
    return {n: max(1.0, c.gpus) ** 2 / total - (c.gpus if fill else 0.0) for c, n in columns.counts.items()}
