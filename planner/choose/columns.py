"""The columns and rows of the program: instances that fit into nodes, and what part of each demand they serve.

A service with one kind of request needs no flows: what its instances take adds up. With several kinds, flows say which
candidate takes how much of which kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.choose import rates
from llmfleet.planner.choose.packing import divisible, islands, patterns
from llmfleet.planner.choose.program import Program
from llmfleet.planner.choose.rates import SMALLEST, Rates
from llmfleet.planner.inventory.model import Policy

# A service's load is its demand over its capacity: 1/scale. Its fall, piece by piece, from an eighth of the demand on.
BREAKS = (0.0, *(2.0**i for i in range(-3, 14)))
FULL = 2 / BREAKS[1]  # what counts as the load of a service that does not run
SEGMENTS = tuple((b - a, (1 / a - 1 / b) / (b - a) if a else (FULL - 1 / b) / b) for a, b in pairwise(BREAKS))


@dataclass(slots=True)
class Columns:
    """By service: `runs` and `runs_long` 0 to 1, `enough` of its least number of instances, parts of its demand that
    are served `inside` the SLO (`urgent`: of that, requests without low priority), at `best`, and after a loss
    (`kept`), and `scale`, how many times its demand its instances take.

    `preferred`: by service and rank of a precision, the part that precisions up to that rank serve.
    """

    program: Program
    counts: dict[Candidate, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    runs_long: dict[str, int] = field(default_factory=dict)
    enough: dict[str, int] = field(default_factory=dict)
    urgent: dict[str, int] = field(default_factory=dict)
    inside: dict[str, int] = field(default_factory=dict)
    best: dict[str, int] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    preferred: dict[tuple[str, int], int] = field(default_factory=dict)
    long_kinds: dict[Candidate, int] = field(default_factory=dict)
    kinds: dict[Candidate, int] = field(default_factory=dict)
    pieces: dict[str, Mapping[int, float]] = field(default_factory=dict)

    def of(self, demand: Demand) -> list[Candidate]:
        return [c for c in self.counts if c.demand is demand]


def columns_of(
    demands: Sequence[Demand], candidates: Sequence[Candidate], classes: Sequence[NodeClass], policy: Policy
) -> Columns:
    columns = Columns(Program())
    for c in candidates:
        columns.counts[c] = columns.program.column(most_instances(c), integer=True)
    for node_class in classes:
        total = len(node_class.nodes)
        all_of_them = policy.objective == "goodput"
        used = columns.program.column(total, total if all_of_them else 0.0, integer=not all_of_them)
        columns.nodes[node_class.name] = used
        _pack(columns, node_class, [c for c in candidates if any(t.node_class is node_class for t in c.takes)])
    for demand in demands:
        members = columns.of(demand)
        _presence(columns, demand, members)
        _long(columns, demand, members)
        if demand.rate > 0:
            _served(columns, demand, members, 1 - policy.headroom)
        _scale(columns, demand, [c for c in members if not c.engine.exception] or members)
    return columns


def most_instances(c: Candidate) -> int:
    """As many as the nodes would hold without any other."""
    return min(len(t.node_class.nodes) * int(len(t.node_class.free) / t.slot) // t.nodes for t in c.takes)


def _pack(columns: Columns, node_class: NodeClass, members: Sequence[Candidate]) -> None:
    """Slots of all instances on a class fit into its nodes in use."""
    program, total, free = columns.program, len(node_class.nodes), len(node_class.free)
    used = columns.nodes[node_class.name]
    slots = {c: next(t for t in c.takes if t.node_class is node_class) for c in members}
    sizes = sorted({t.slot for t in slots.values()})
    room = [float(len(group)) for group in islands(node_class.free, node_class.island)]
    if divisible(sizes) and len(room) == 1:
        for size in sizes:
            taken = {columns.counts[c]: t.slot * t.nodes for c, t in slots.items() if t.slot >= size}
            program.at_most({**taken, used: -(free // size * size)}, 0.0)
        return
    cuts = [(program.column(total, integer=True), pattern) for pattern in patterns(room, sizes)]
    program.at_most({**{column: 1.0 for column, _ in cuts}, used: -1.0}, 0.0)
    for size in sizes:
        taken = {columns.counts[c]: float(t.nodes) for c, t in slots.items() if t.slot == size}
        program.at_most({**taken, **{column: -float(cut.get(size, 0)) for column, cut in cuts if cut.get(size)}}, 0.0)


def _presence(columns: Columns, demand: Demand, members: Sequence[Candidate]) -> None:
    program, name = columns.program, demand.service.name
    columns.runs[name] = program.column(1.0)
    program.at_least({**{columns.counts[c]: 1.0 for c in members}, columns.runs[name]: -1.0}, 0.0)
    least = demand.service.min_instances
    if least > 1:
        columns.enough[name] = program.column(1.0)
        program.at_least(
            {**{columns.counts[c]: 1.0 for c in members}, columns.enough[name]: -float(least)}, 0.0
        )  # fmt: skip


def _long(columns: Columns, demand: Demand, members: Sequence[Candidate]) -> None:
    """Whether long prompts are served at all; a class has one role for a service."""
    program, name = columns.program, demand.service.name
    long = [c for c in members if c.role == "long"]
    if not long:
        return
    columns.runs_long[name] = program.column(1.0)
    program.at_least({**{columns.counts[c]: 1.0 for c in long}, columns.runs_long[name]: -1.0}, 0.0)
    for c in long:
        chosen = columns.long_kinds[c] = program.column(1.0, integer=True)
        program.at_most({columns.counts[c]: 1.0, chosen: -float(most_instances(c))}, 0.0)
        for other in members:
            if other.role != "long" and other.node_class is c.node_class:
                most = float(most_instances(other))
                program.at_most({columns.counts[other]: 1.0, chosen: most}, most)
    # Follows from the rows before, for whole numbers; said, it spares the search most of its branches.
    program.at_least({**{columns.long_kinds[c]: 1.0 for c in long}, columns.runs_long[name]: -1.0}, 0.0)


def _served(columns: Columns, demand: Demand, members: Sequence[Candidate], usable: float) -> None:
    """Parts of the demand, each instance loaded up to the `usable` part of its capacity."""
    program, name = columns.program, demand.service.name
    strict = rates.inside(members)
    columns.inside[name] = served_part(columns, demand, strict, _counted(columns, usable), sliced=True)
    low = demand.service.traffic.low_priority if demand.service.traffic else 0.0
    if low:
        columns.urgent[name] = program.column(1 - low)
        program.at_most({columns.urgent[name]: 1.0, columns.inside[name]: -1.0}, 0.0)
    columns.best[name] = served_part(columns, demand, rates.at_best(members), _counted(columns, usable))
    for rank in sorted({c.engine.rank for c in members})[:-1]:
        liked = {c: r for c, r in rates.at_best(members).items() if c.engine.rank <= rank}
        columns.preferred[name, rank] = served_part(columns, demand, liked, _counted(columns, usable))


def _counted(columns: Columns, usable: float) -> Callable[[Candidate], Mapping[int, float]]:
    return lambda c: {columns.counts[c]: usable}


def served_part(
    columns: Columns, demand: Demand, able: Rates, instances: Callable[[Candidate], Mapping[int, float]], *,
    sliced: bool = False,
) -> int:  # fmt: skip
    """A column for the part of the demand that `instances`, a sum of columns, of each candidate can serve.

    `sliced`: parts of a kind of request go to one candidate whole, where the traffic says into how many they are cut.
    """
    program, want = columns.program, {b.name: b.rate for b in rates.kinds(demand)}
    part = program.column(1.0)
    if len(want) == 1:
        ((name, rate),) = want.items()
        terms: dict[int, float] = {part: -rate}
        for c, by in able.items():
            for column, factor in instances(c).items():
                terms[column] = terms.get(column, 0.0) + factor * by.get(name, 0.0)
        program.at_least(terms, 0.0)
        return part
    flows = _flows(columns, want, able, instances, demand.slices if sliced else 0)
    for name, rate in want.items():
        program.at_most({column: 1.0 for (_, kind), column in flows.items() if kind == name}, rate)
    program.equal({**dict.fromkeys(flows.values(), 1.0), part: -demand.rate}, 0.0)
    return part


def _flows(
    columns: Columns, want: Mapping[str, float], able: Rates, instances: Callable[[Candidate], Mapping[int, float]],
    slices: int = 0,
) -> dict[tuple[Candidate, str], int]:  # fmt: skip
    """Requests/s of each kind by each candidate, no more than its instances can do."""
    program = columns.program
    flows: dict[tuple[Candidate, str], int] = {}
    for c, by in able.items():
        load: dict[int, float] = {}
        for name in want:
            if by.get(name, 0.0) > SMALLEST:
                flow = flows[c, name] = program.column()
                load[flow] = 1 / by[name]
                if slices:
                    program.equal({flow: 1.0, program.column(slices, integer=True): -want[name] / slices}, 0.0)
        if load:
            program.at_most({**load, **{column: -factor for column, factor in instances(c).items()}}, 0.0)
    return flows


def _scale(columns: Columns, demand: Demand, regular: Sequence[Candidate]) -> None:
    """`scale` times every kind of request at once."""
    program = columns.program
    able = rates.spare_capacities(regular)
    want = {n: rate for n, rate in rates.wanted(demand, able).items() if rate > SMALLEST}
    scale = columns.scale[demand.service.name] = program.column(sum(width for width, _ in SEGMENTS))
    if len(want) == 1:
        ((name, rate),) = want.items()
        taken = {columns.counts[c]: by[name] for c, by in able.items() if by.get(name, 0.0) > SMALLEST}
        program.at_least({**taken, scale: -rate}, 0.0)
        return
    flows = _flows(columns, want, able, lambda c: {columns.counts[c]: 1.0})
    for name, rate in want.items():
        program.equal(
            {**{column: 1.0 for (_, kind), column in flows.items() if kind == name}, scale: -rate}, 0.0
        )  # fmt: skip


def add_pieces(columns: Columns, demands: Iterable[Demand]) -> None:
    """By how much each service's load falls with its capacity, piece by piece."""
    for demand in demands:
        pieces = [(columns.program.column(width), slope) for width, slope in SEGMENTS]
        columns.program.equal({**{column: 1.0 for column, _ in pieces}, columns.scale[demand.service.name]: -1.0}, 0.0)
        columns.pieces[demand.service.name] = dict(pieces)


def add_kinds(columns: Columns) -> None:
    """Whether any instance of a candidate runs."""
    for c, n in columns.counts.items():
        kind = columns.kinds[c] = columns.program.column(1.0, integer=True)
        columns.program.at_most({n: 1.0, kind: -float(most_instances(c))}, 0.0)
