"""What a changed plan means for what runs: what stays, what starts at once, what is replaced, and in which order. Pure.

New before old where nothing is in the way; where the new needs what the old holds (GPUs, a port, its name, a Ray
process), the old is drained first, node by node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmfleet.launch.nodes.process import Process
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Instance

Claim = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that runs. `instance`: as the plan that started it has it; None where nobody knows that plan."""

    node: str
    name: str
    digest: str | None
    instance: Instance | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.node, self.name

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.instance.nodes if self.instance else (self.node,)


@dataclass(frozen=True, slots=True)
class Wave:
    """Engines that leave together, and what takes their place. `ray`: restarted while nothing runs on it."""

    nodes: tuple[str, ...]
    out: tuple[Engine, ...]
    ray: tuple[Process, ...] = ()
    start: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Roll:
    """`fresh`: engines that run as wanted, or can start before anything stops; `ray`: the same of Ray."""

    fresh: tuple[Process, ...]
    ray: tuple[Process, ...]
    waves: tuple[Wave, ...] = ()

    @property
    def waiting(self) -> frozenset[str]:
        """Instances that cannot start before another has stopped."""
        return frozenset(p.name for w in self.waves for p in w.start)

    @property
    def leaving(self) -> tuple[Engine, ...]:
        return tuple(e for w in self.waves for e in w.out)

    def outages(self, kept: Iterable[Instance]) -> tuple[str, ...]:
        """Services without any running instance at some moment, though they have one before. `kept`: instances of
        the plan, of which those that are fresh serve all the time."""
        known = {i.id: i.service for i in kept}
        fresh = [known[p.name] for p in self.fresh if p.name in known]
        serving = Counter(fresh) + Counter(e.instance.service for e in self.leaving if e.instance)
        bare: dict[str, None] = {}
        for wave in self.waves:
            out = Counter(e.instance.service for e in wave.out if e.instance)
            serving.subtract(out)
            bare |= {service: None for service in out if serving[service] <= 0}
            serving.update(known[p.name] for p in wave.start if p.name in known)
        return tuple(bare)

    @property
    def summary(self) -> str:
        replaced = [e.name for e in self.leaving if e.name in self.waiting]
        gone = [e.name for e in self.leaving if e.name not in self.waiting]
        coming = [name for name in sorted(self.waiting) if name not in replaced]
        parts = [
            f"{verb} {some(names)}"
            for verb, names in (("replaces", replaced), ("stops", gone), ("then starts", coming))
            if names
        ]
        rounds = f"{len(self.waves)} rounds, one after the other" if len(self.waves) > 1 else "one round"
        return f"the plan changes what runs: {'; '.join(parts)}; in {rounds}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the plan wants to run, and where what it is made of lies."""

    engines: Sequence[Process]
    ray: Sequence[Process]
    instances: Mapping[str, Instance]  # of the plan, by id
    addresses: Mapping[str, str]  # of nodes: several may share a machine, and with it its ports
    head: str


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def plan_roll(
    wanted: Wanted, running: Collection[Engine], ray: Mapping[tuple[str, str], str | None],
    *, order: Sequence[str], at_once: int,
) -> Roll:
    """`ray`: digests of the Ray processes that run, by node and name. `order`: of nodes; `at_once`: nodes of a wave."""
    changed = {p.node for p in wanted.ray if (p.node, p.name) in ray and ray[p.node, p.name] != p.digest}
    claims = Claims(wanted.addresses, wanted.head, changed)
    digests = {(p.node, p.name): p.digest for p in wanted.engines}
    leaving = [e for e in running if digests.get((e.node, e.name)) != e.digest or claims.of_ray(e.instance)]
    held = {claim for e in leaving for claim in claims.held(e)}
    stays = {e.key for e in running} - {e.key for e in leaving}  # also beside one that leaves, on a GPU of both
    coming = [p for p in wanted.engines if (p.node, p.name) not in stays]
    blocked = [p for p in coming if claims.needed(p, wanted.instances[p.name]) & held]
    late = [p for p in wanted.ray if (p.node, p.name) in ray and ("ray", p.node) in held]
    batches = _batches(_units(claims, leaving, order), leaving, _serving(wanted, running), at_once)
    blockers = {p.name: _in_the_way(claims, p, wanted.instances[p.name], leaving) for p in blocked}
    return Roll(
        fresh=tuple(p for p in wanted.engines if p not in blocked),
        ray=tuple(p for p in wanted.ray if p not in late),
        waves=tuple(_waves(batches, leaving, blocked, blockers, late, wanted)),
    )


def nodes_at_once(text: str, nodes: int) -> int:
    """`--max-unavailable` as a number of nodes: "2", or "25%" of them rounded down, and at least one."""
    found = re.fullmatch(r"([0-9]+)(%?)", text.strip())
    if found is None or (found[2] and int(found[1]) > 100):
        raise InputError(f'"{text}" is no number of nodes', hint="As --max-unavailable 2, or --max-unavailable 25%")
    number = int(found[1])
    return max(1, number * nodes // 100 if found[2] else number)


@dataclass(frozen=True, slots=True)
class Claims:
    """What an engine holds while it runs, so that no other can have it."""

    addresses: Mapping[str, str]
    head: str
    changed_ray: Collection[str]  # nodes whose Ray process must be restarted

    def held(self, engine: Engine) -> frozenset[Claim]:
        """An engine that nobody knows holds its whole node."""
        if engine.instance is None:
            return frozenset({("id", engine.name), ("node", engine.node)})
        return self._own(engine.node, engine.instance) | self.of_ray(engine.instance)

    def needed(self, process: Process, instance: Instance) -> frozenset[Claim]:
        on = {("node", name) for name in instance.nodes}
        return self._own(process.node, instance) | self.of_ray(instance) | on

    def _own(self, node: str, instance: Instance) -> frozenset[Claim]:
        gpus = {("gpu", name, str(index)) for name, indices in instance.gpus.items() for index in indices}
        return frozenset({("id", instance.id), ("port", self.addresses.get(node, node), str(instance.port)), *gpus})

    def of_ray(self, instance: Instance | None) -> frozenset[Claim]:
        """Ray processes under it that are to be restarted, which would take it along."""
        if instance is None or not instance.spans_nodes:
            return frozenset()
        return frozenset(("ray", n) for n in {*instance.nodes, self.head} & set(self.changed_ray))


def _in_the_way(
    claims: Claims, process: Process, instance: Instance, leaving: Sequence[Engine]
) -> frozenset[tuple[str, str]]:
    needs = claims.needed(process, instance)
    return frozenset(e.key for e in leaving if needs & claims.held(e))


def _units(claims: Claims, leaving: Sequence[Engine], order: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of nodes that have to be emptied together: an engine spans them, or one Ray process is under them all."""
    groups: list[set[str]] = [set(e.nodes) for e in leaving]
    for claim in {claim for e in leaving for claim in claims.of_ray(e.instance)}:
        groups.append({n for e in leaving if claim in claims.of_ray(e.instance) for n in e.nodes})
    merged: list[set[str]] = []
    for group in groups:
        touching = [m for m in merged if m & group]
        merged = [m for m in merged if not m & group] + [group.union(*touching)]
    place = {name: number for number, name in enumerate(order)}
    rank: Callable[[str], tuple[int, str]] = lambda n: (place.get(n, len(place)), n)  # noqa: E731
    return sorted((tuple(sorted(m, key=rank)) for m in merged), key=lambda unit: rank(unit[0]))


def _serving(wanted: Wanted, running: Iterable[Engine]) -> Mapping[str, Collection[tuple[str, ...]]]:
    """By service: the nodes of each of its instances that runs now or is to run."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for instance in (*wanted.instances.values(), *(e.instance for e in running if e.instance)):
        found.setdefault(instance.service, set()).add(instance.nodes)
    return found


def _batches(
    units: Sequence[tuple[str, ...]], leaving: Sequence[Engine],
    serving: Mapping[str, Collection[tuple[str, ...]]], at_once: int,
) -> Iterator[tuple[str, ...]]:
    """Units in order, as many as may be away at once, but never all instances of a service where that can be helped."""

    def bare(nodes: set[str]) -> bool:
        hit = {e.instance.service for e in leaving if e.instance and nodes & set(e.nodes)}
        return any(all(nodes & set(home) for home in serving[service]) for service in hit)

    batch: list[str] = []
    for unit in units:
        if batch and (len(batch) + len(unit) > at_once or bare({*batch, *unit})):
            yield tuple(batch)
            batch = []
        batch += unit
    if batch:
        yield tuple(batch)


def _waves(
    batches: Iterable[tuple[str, ...]], leaving: Sequence[Engine], blocked: Sequence[Process],
    blockers: Mapping[str, frozenset[tuple[str, str]]], late: Sequence[Process], wanted: Wanted,
) -> Iterator[Wave]:
    """What is blocked starts in the wave that stops the last of what is in its way."""
    gone: set[tuple[str, str]] = set()
    for nodes in batches:
        out = tuple(e for e in leaving if set(e.nodes) <= set(nodes))
        now = {e.key for e in out}
        spanning = any(e.instance and e.instance.spans_nodes for e in out)
        yield Wave(
            nodes=nodes,
            out=out,
            ray=tuple(p for p in late if spanning and p.node in {*nodes, wanted.head}),
            start=tuple(p for p in blocked if blockers[p.name] & now and blockers[p.name] <= gone | now),
        )
        gone |= now
