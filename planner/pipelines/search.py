"""Which nodes form pipelines together, and how many layers each of them holds.

A pipeline's rate is the sequences that its tightest KV cache holds over the time of their step (steps.py). Every node
joins one pipeline or none; moves between them are tried as in annealing, with a fixed seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heapify, heappop, heapreplace
from math import exp
from random import Random

ROUNDS = 2_500
FILLS = (1.0, 0.85, 0.7, 0.55, 0.4)  # how much of what a stage could hold it may be given
SPARING_FILLS = (1.0, 0.7)
KEPT = 24  # sets that are simulated, of each number of pipelines as many
NEAR_BEST = 0.75  # of the best score: the formula is not as good as the simulation
START_HEAT, END_HEAT = 0.05, 0.0005  # of the score that a move may cost


@dataclass(frozen=True, slots=True)
class Kind:
    """Nodes of a class: `count` of them, `stages` on each, at most `most` layers a stage, seconds of a layer."""

    name: str
    count: int
    stages: int
    most: int
    layer_s: float


@dataclass(frozen=True, slots=True)
class Chain:
    """One pipeline: for each node in order its kind and the layers of its stages."""

    nodes: tuple[tuple[str, tuple[int, ...]], ...]
    rate: float

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(n for _, stages in self.nodes for n in stages)


Composition = tuple[int, ...]  # nodes of each kind
Counts = tuple[tuple[tuple[str, tuple[int, ...]], ...], int]  # of alike pipelines
Rate = Callable[[Sequence[tuple[str, tuple[int, ...]]]], float]


def chains(kinds: Sequence[Kind], layers: int, rate: Rate, edge: int) -> list[list[Chain]]:
    """Sets of pipelines with the highest sums of rates, best first; none where all nodes do not hold the model.

    `rate` of a pipeline's nodes with their layers, requests/s; `edge`: layers that embedding or head are as large as.
    """
    best = _best(kinds, layers, rate, edge)
    room = sum(k.count * k.stages * k.most for k in kinds)
    most = min(room // layers, sum(k.count for k in kinds))
    several: dict[frozenset[Counts], list[Chain]] = {}
    for count in range(1, most + 1):
        new = {_counts(found): found for found in _annealed(kinds, count, best)}
        several |= dict([(key, found) for key, found in new.items() if key not in several][: -(-KEPT // most)])
    return sorted(several.values(), key=lambda found: -sum(c.rate for c in found))


def smallest(kinds: Sequence[Kind], layers: int, rate: Rate, edge: int) -> list[Chain]:
    """Pipelines that leave nodes to others, for each kind one that spares most of its nodes, and of the rest the slow.

    At two fills: the smallest has hardly any cache.
    """
    best, found = _best(kinds, layers, rate, edge), {}
    slow = sorted(range(len(kinds)), key=lambda i: -kinds[i].layer_s)
    for fill in SPARING_FILLS:
        for spared in range(len(kinds)):
            composition = [k.count for k in kinds]
            for kind in (spared, *(i for i in slow if i != spared)):
                while composition[kind]:
                    composition[kind] -= 1
                    if _cut(kinds, tuple(composition), layers, fill, edge) is None:
                        composition[kind] += 1
                        break
            if chain := best(tuple(composition)):
                found[chain.nodes] = chain
    return list(found.values())


def _best(kinds: Sequence[Kind], layers: int, rate: Rate, edge: int) -> Callable[[Composition], Chain | None]:
    """The best cut of a composition."""

    @cache
    def best(composition: Composition) -> Chain | None:
        options = [c for fill in FILLS if (c := _cut(kinds, composition, layers, fill, edge)) is not None]
        found = [Chain(tuple(c), rate(c)) for c in dict.fromkeys(map(tuple, options))]
        return max(found, key=lambda c: c.rate, default=None)

    return best


def _counts(found: Sequence[Chain]) -> frozenset[Counts]:
    """What tells sets apart: how many pipelines there are of each kind."""
    return frozenset(Counter(c.nodes for c in found).items())


def _annealed(kinds: Sequence[Kind], count: int, best: Callable[[Composition], Chain | None]) -> list[list[Chain]]:
    """The best that moves of single nodes between `count` pipelines and the unused find from an even start."""
    random = Random(count)  # noqa: S311 - the same moves every time
    groups = [[k.count // count + (g < k.count % count) for k in kinds] for g in range(count)] + [[0] * len(kinds)]

    def score(each: Sequence[Sequence[int]]) -> float:
        return sum(c.rate for g in each[:-1] if (c := best(tuple(g))))

    now = top = score(groups)
    tops = {tuple(sorted(tuple(g) for g in groups[:-1])): now}
    for step in range(ROUNDS):
        kind = random.randrange(len(kinds))
        giver, taker = random.sample(range(count + 1), 2)
        if not groups[giver][kind]:
            continue
        moved = 1 if random.random() < 0.8 else groups[giver][kind]
        groups[giver][kind] -= moved
        groups[taker][kind] += moved
        new = score(groups)
        heat = (START_HEAT * (END_HEAT / START_HEAT) ** (step / ROUNDS)) * (top or 1e-9)
        if new >= now or random.random() < exp((new - now) / heat):
            now = new
            top = max(top, new)
            if new > top * NEAR_BEST:
                tops[tuple(sorted(tuple(g) for g in groups[:-1]))] = new
        else:
            groups[giver][kind] += moved
            groups[taker][kind] -= moved
    found = sorted(tops, key=lambda groups: -tops[groups])
    return [[c for g in groups if (c := best(g))] for groups in found if tops[groups] > 0]


def _cut(
    kinds: Sequence[Kind], composition: Composition, layers: int, fill: float, edge: int
) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    """Layers by the speed of each stage, no more than `fill` of what it could hold; fast nodes stand at the ends."""
    used = [(k, n) for k, n in zip(kinds, composition, strict=True) if n]
    caps = {k.name: max(1, int(k.most * fill)) for k, _ in used}
    if sum(caps[k.name] * k.stages * n for k, n in used) < layers + 2 * edge:
        return None
    given = _by_speed(used, caps, layers, edge)
    if given is None:
        return None
    order = sorted(used, key=lambda pair: pair[0].layer_s)
    stages = [(k.name, i) for k, n in order for i in range(n)]
    rest = {k.name: list(given[k.name]) for k, _ in used}
    size = {k.name: k.stages for k, _ in used}
    nodes = []
    for name, _ in stages:
        nodes.append((name, tuple(rest[name][: size[name]])))
        rest[name] = rest[name][size[name] :]
    return tuple(nodes)


def _by_speed(
    used: Sequence[tuple[Kind, int]], caps: Mapping[str, int], layers: int, edge: int
) -> dict[str, list[int]] | None:
    """Stages take layers one by one, each time the one whose time grows least by it."""
    stages = [(k, i) for k, n in used for i in range(n * k.stages)]
    given = [1] * len(stages)
    fastest = min(range(len(stages)), key=lambda i: stages[i][0].layer_s)
    last = max(range(len(stages)), key=lambda i: (stages[i][0].layer_s, i))
    room = [caps[k.name] - (edge if i in (fastest, last) else 0) for i, (k, _) in enumerate(stages)]
    if len(stages) > layers or min(room) < 1:
        return None
    waiting = [(2 * k.layer_s, i) for i, (k, _) in enumerate(stages) if room[i] > 1]
    heapify(waiting)
    for _ in range(layers - len(stages)):
        if not waiting:
            return None
        _, i = waiting[0]
        given[i] += 1
        if given[i] < room[i]:
            heapreplace(waiting, ((given[i] + 1) * stages[i][0].layer_s, i))
        else:
            heappop(waiting)
    found: dict[str, list[int]] = {}
    for (k, _), n in zip(stages, given, strict=True):
        found.setdefault(k.name, []).append(n)
    return found
