"""What is left when nodes are lost: `redundancy` as rows of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.choose import rates
from llmfleet.planner.choose.columns import Columns, most_instances, served_part


def add_losses(columns: Columns, demands: Sequence[Demand], classes: Sequence[NodeClass], lost: int) -> None:
    """For each class the part of each demand that is served inside the SLO after the loss of `lost` of its nodes.

    Instances are spread evenly over the nodes of their class in use, so the fullest node has no more than its share of
    each kind, rounded up: that many are taken to be lost with every node. Headroom may be used up then.
    """
    fullest = {c: _fullest(columns, c) for c in columns.counts}
    for demand in demands:
        if demand.rate <= 0:
            continue
        members = columns.of(demand)
        strict = rates.inside(members)
        parts = [
            served_part(columns, demand, strict, lambda c, k=node_class: _left(columns, c, k, fullest, lost))  # type: ignore[misc]
            for node_class in classes
            if any(t.node_class is node_class for c in members for t in c.takes)
        ]
        if parts:
            worst = columns.kept[demand.service.name] = columns.program.column(1.0)
            for part in parts:
                columns.program.at_most({worst: 1.0, part: -1.0}, 0.0)


def _left(
    columns: Columns, c: Candidate, hit: NodeClass, fullest: Mapping[Candidate, Mapping[str, int]], lost: int
) -> Mapping[int, float]:
    here = fullest[c].get(hit.name)
    return {columns.counts[c]: 1.0} if here is None else {columns.counts[c]: 1.0, here: -float(lost)}


def _fullest(columns: Columns, c: Candidate) -> dict[str, int]:
    """By class, a column: instances of the candidate on its fullest node of that class.

    The number of nodes in use is itself a variable, so each possible number has a switch.
    """
    program, found = columns.program, {}
    for take in c.takes:
        fits, most = int(len(take.node_class.free) / take.slot), float(most_instances(c) * take.nodes)
        fullest = found[take.node_class.name] = program.column(fits, integer=True)
        switches = [program.column(1.0, integer=True) for _ in range(fits + 1)]
        program.equal(dict.fromkeys(switches, 1.0), 1.0)
        program.equal({**{s: float(m) for m, s in enumerate(switches)}, fullest: -1.0}, 0.0)
        used = columns.nodes[take.node_class.name]
        for m, switch in enumerate(switches):
            program.at_most({columns.counts[c]: float(take.nodes), used: -float(m), switch: most}, most)
    return found
