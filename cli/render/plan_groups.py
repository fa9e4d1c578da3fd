"""Instances of a plan that are alike, as one thing to say something about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llmfleet.cli.render.names import compressed
from llmfleet.planner.plan import Instance, Plan, ServicePlan, by_service

TRACE = 0.01
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class Group:
    """Instances that are alike in all that a row says."""

    service: ServicePlan
    pools: str
    share: float
    instances: tuple[Instance, ...]

    @property
    def one(self) -> Instance:
        return self.instances[0]

    @property
    def nodes(self) -> str:
        return compressed(dict.fromkeys(node for i in self.instances for node in i.nodes))

    @property
    def shape(self) -> str:
        return shape(self.one)

    @property
    def precision(self) -> str:
        return precision(self.one)

    @property
    def engine(self) -> str:
        return engine(self.one)


def groups_of(plan: Plan) -> Iterator[Group]:
    by_id = {i.id: i for i in plan.instances}
    for service in plan.services:
        pools: dict[tuple[str, ...], list[str]] = {}
        shares: dict[tuple[str, ...], float] = {}
        for pool in service.pools:
            pools.setdefault(pool.instances, []).append(pool.name)
            shares[pool.instances] = shares.get(pool.instances, 0.0) + pool.share
        for ids, names in pools.items():
            members = [by_id[i] for i in ids]
            total = sum(i.weight for i in members)
            for alike in _alike(members):
                part = sum(i.weight for i in alike) / total
                yield Group(service, ", ".join(names), shares[ids] * part, tuple(alike))


def at_work(plan: Plan) -> dict[str, list[Instance]]:
    """By service, the instances that carry more than a trace of its requests; all of them where nobody asks."""
    found: dict[str, list[Instance]] = {}
    for group in groups_of(plan):
        if group.share >= TRACE or not group.service.demand_rps:
            found.setdefault(group.service.name, []).extend(group.instances)
    return found


def _alike(members: Iterable[Instance]) -> Iterable[list[Instance]]:
    found: dict[tuple[object, ...], list[Instance]] = {}
    for i in members:
        found.setdefault((i.reason, i.tp, i.pp, i.engine_version, i.max_model_len, i.budget), []).append(i)
    return found.values()


def shape(instance: Instance) -> str:
    parts = [f"TP{instance.tp}"] * (instance.tp > 1) + [f"PP{instance.pp}"] * (instance.pp > 1)
    if parts:
        return " ".join(parts)
    if instance.gpu_share < 1:
        return f"1/{round(1 / instance.gpu_share)} GPU"
    return "1 slot" if instance.accelerator == "cpu" else "1 GPU"


def precision(instance: Instance) -> str:
    return instance.quantization or DTYPES.get(instance.dtype, instance.dtype)


def engine(instance: Instance) -> str:
    return f"{'vLLM' if instance.engine == 'vllm' else instance.engine} {instance.engine_version}"


def losses(plan: Plan) -> Iterator[tuple[float, str]]:
    """Part of each service's peak that is left when any one node is gone."""
    members_of = by_service(plan.instances)
    for service in plan.services:
        members = members_of.get(service.name, ())
        if service.demand_rps and members:
            total = sum(i.capacity_rps for i in members)
            lost = _by_node(members)
            yield (total - max(lost.values())) / service.demand_rps, service.name


def _by_node(members: Iterable[Instance]) -> Mapping[str, float]:
    lost: dict[str, float] = {}
    for i in members:
        for node in i.nodes:
            lost[node] = lost.get(node, 0.0) + i.capacity_rps
    return lost
