"""A plan as the simulation sees it: engines with their limits and speed, pools, and where each kind of request goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.plan import Instance, Plan, Pool, Role, ServicePlan
from llmfleet.planner.simulate.arrays import UNLIMITED
from llmfleet.planner.simulate.router import LEAST, RING, TURNS
from llmfleet.planner.simulate.speeds import Pace

Policy = Literal["router", "round-robin", "least-request", "weights", "affinity"]
POLICIES: tuple[Policy, ...] = ("router", "round-robin", "least-request", "weights", "affinity")
BOUND = 1.5  # of its weight's part of all requests that a member may run, before others take over
TRIES, TRIES_ALONE, TRIES_STAND_IN = 3, 6, 2
ROLES: tuple[Role, ...] = ("main", "long", "fallback")


@dataclass(frozen=True, slots=True)
class Engine:
    """One instance. `blocks` 0: it caches nothing, as embedding and rerank engines do."""

    instance: Instance
    gpu: str
    pace: Pace
    block: int
    blocks: int

    @property
    def longest(self) -> int:
        if self.instance.task != "generate":
            return UNLIMITED
        return min(self.instance.max_model_len, self.blocks * self.block)


@dataclass(frozen=True, slots=True)
class RoutedPool:
    """Members by their place in `Fleet.engines`, with weights that add up to 1."""

    service: str
    role: Role
    task: str
    members: tuple[int, ...]
    weights: tuple[float, ...]
    over: int | None


@dataclass(frozen=True, slots=True)
class Fleet:
    engines: tuple[Engine, ...]
    pools: tuple[RoutedPool, ...]
    tries: Mapping[tuple[str, bool], tuple[int, ...]]  # pools by service and whether the prompt is long
    degraded: frozenset[tuple[str, str]]  # service that asked, service that answers in its stead

    def over(self) -> dict[str, int]:
        return {p.service: p.over for p in self.pools if p.role == "long" and p.over is not None}


def fleet_of(decision: Decision, plan: Plan) -> Fleet:
    """`plan` was made from the decision: their instances are in the same order."""
    paces = {c: _pace(c) for c in decision.counts}
    made = zip(plan.instances, decision.placed, strict=True)
    engines = tuple(_engine(instance, placed.candidate, paces) for instance, placed in made)
    places = {engine.instance.id: i for i, engine in enumerate(engines)}
    pools = tuple(p for s in plan.services for role in ROLES if (p := _pool(plan, s, role, places)) is not None)
    by_service = {s.name: [i for i, p in enumerate(pools) if p.service == s.name] for s in plan.services}
    tries: dict[tuple[str, bool], tuple[int, ...]] = {}
    for service in plan.services:
        tries.update(_tries(service, pools, by_service))
    pairs = {(s.name, s.fallback) for s in plan.services if s.fallback}
    return Fleet(engines, pools, tries, frozenset(pairs))


def _pace(c: Candidate) -> Pace:
    s = c.settings
    return Pace(c.steps, s.max_num_seqs, s.max_num_batched_tokens, s.max_model_len, c.shape.pp)


def _engine(instance: Instance, c: Candidate, paces: Mapping[Candidate, Pace]) -> Engine:
    kv = c.memory.kv if instance.task == "generate" else None
    usual = max(c.demand.buckets, key=lambda bucket: bucket.part).request.held
    # One table of blocks for all layers, as many as hold such requests. The engine never hands out one of its pool.
    blocks = round(kv.tokens_at(usual) / kv.block_size) - 1 if kv else 0
    return Engine(instance, c.node_class.gpu.name, paces[c], kv.block_size if kv else 16, blocks)


def _pool(plan: Plan, service: ServicePlan, role: Role, places: Mapping[str, int]) -> RoutedPool | None:
    """All pools of a role are one cluster of the router; where it joins several, their shares scale the weights."""
    planned = [pool for pool in service.pools if pool.role == role and pool.instances]
    weights: dict[int, float] = {}
    for pool in planned:
        scale = pool.share / _weight(plan, pool) if len(planned) > 1 else 1.0
        for instance in plan.those(pool.instances):
            weights[places[instance.id]] = max(1e-6, instance.weight * scale)
    if not weights:
        return None
    total = sum(weights.values())
    over = min((p.over_tokens for p in planned if p.over_tokens is not None), default=None)
    shares = tuple(w / total for w in weights.values())
    return RoutedPool(service.name, role, service.task, tuple(weights), shares, over)


def _weight(plan: Plan, pool: Pool) -> float:
    return sum(i.weight for i in plan.those(pool.instances))


def _tries(
    service: ServicePlan, pools: Sequence[RoutedPool], by_service: Mapping[str, Sequence[int]]
) -> dict[tuple[str, bool], tuple[int, ...]]:
    own = by_service[service.name]
    primary = _primary(own, pools)
    if primary is None:
        return {(service.name, False): ()}
    stand_ins = [i for i in own if pools[i].role == "fallback" and i != primary]
    if service.fallback:
        other = _primary(by_service.get(service.fallback, ()), pools)
        stand_ins += [other] if other is not None else []
    spare = [i for i in own if pools[i].role == "long" and i != primary]
    first = min(TRIES, len(pools[primary].members)) if stand_ins or spare else TRIES_ALONE
    usual = [primary] * first + [i for i in stand_ins for _ in range(min(TRIES_STAND_IN, len(pools[i].members)))]
    tries = {(service.name, False): tuple(usual)}
    long = next((i for i in own if pools[i].over is not None and i != primary), None)
    if long is not None:
        tries[service.name, True] = (long,) * TRIES + (primary,)
    return tries


def _primary(own: Sequence[int], pools: Sequence[RoutedPool]) -> int | None:
    by_role = {pools[i].role: i for i in own}
    return next((by_role[role] for role in ("main", "fallback", "long") if role in by_role), None)


def weights(pool: RoutedPool, policy: Policy) -> Sequence[float]:
    if policy in ("router", "weights") or pool.task != "generate":
        return pool.weights
    return [1 / len(pool.members)] * len(pool.members)


def choice(pool: RoutedPool, policy: Policy) -> int:
    """The policies differ in what they do with generation; other tasks go where fewest requests run."""
    if pool.task != "generate" or policy == "least-request":
        return LEAST
    return TURNS if policy in ("round-robin", "weights") else RING
