"""The plan: what runs where, why, and what is expected of it. plan.json is these values, key by key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from llmfleet.planner.figures import Budget, EngineName, Expected, Task

Role = Literal["main", "long", "fallback"]
__all__ = [
    "Budget", "EngineName", "Expected", "Instance", "Objective", "Plan", "Pool", "Rejected", "Role", "RouterPlan",
    "ServicePlan", "Task", "Unused", "by_service", "check_process_name", "from_json", "sealed", "to_json", "to_text",
]  # fmt: skip


MOST_READ = 2000  # instances: longer plans are written without line breaks
PREFIX_BYTES = 4096  # where a service says nothing else, see docs/router.md


def check_process_name(name: str) -> None:
    """It is that of a folder on a node, and plan and state may have been edited by hand. Raises ValueError."""
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise ValueError(f"{name!r} is no name of a process")


@dataclass(frozen=True, slots=True)
class Instance:
    """One running engine of a service. `gpus` names the GPU indices on each node; the first node answers HTTP."""

    id: str
    service: str
    model: str
    task: Task
    engine: EngineName
    engine_version: str
    image: str | None
    nodes: tuple[str, ...]
    gpus: Mapping[str, tuple[int, ...]]
    tp: int
    pp: int
    pp_partition: tuple[int, ...] | None
    dtype: str
    quantization: str | None
    kv_cache_dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_memory_bytes: int
    gpu_memory_utilization: float  # only the engine's own start-up check uses it; the KV cache is sized in bytes
    port: int
    budget: Budget
    expected: Expected
    weight: int  # relative share of its pool's traffic, 1..1000
    max_concurrency: int  # requests it should hold at once
    reason: str
    weights_path: str  # folder or file on the nodes; "{models}" stands for the node's own model folder
    weights_source: str | None = None  # folder or file on the operator's machine that is copied there
    enforce_eager: bool = False
    accelerator: Literal["gpu", "cpu"] = "gpu"
    capacity_rps: float = 0.0  # requests a second of its own mix that it takes inside the SLO
    layers: Mapping[str, tuple[int, int]] | None = None  # of a pipeline, by node: the first layer, and the one behind
    gpu_share: float = 1.0  # of its one GPU; below 1 others share it, and budget and figures are of that part
    long_prefill_token_threshold: int = 0  # prompt tokens of one request in a step while others wait; 0: no limit
    multi_node: Literal["ray", "mp"] = "ray"  # what carries it over several nodes: Ray, or vLLM's own processes

    def __post_init__(self) -> None:
        check_process_name(self.id)

    @property
    def spans_nodes(self) -> bool:
        return len(self.nodes) > 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Instances that the router treats alike. `share` is of the service's requests; the pools' shares add up to 1.

    Instances of a long pool may be in a main pool as well, for the part of the short prompts that they take.
    """

    name: str
    instances: tuple[str, ...]
    share: float
    role: Role
    over_tokens: int | None = None  # a long pool takes prompts above this many tokens
    ttft_limit_s: float | None = None  # of a long pool: its prompts may take longer to their first token


@dataclass(frozen=True, slots=True)
class ServicePlan:
    name: str
    model: str
    task: Task
    demand_rps: float
    capacity_rps: float
    slo_met: bool
    pools: tuple[Pool, ...]
    fallback: str | None = None  # the service whose pools take what this one cannot
    prefix_bytes: int = PREFIX_BYTES  # of a prompt's start, by which the router tells requests apart

    def ttft_limit_s(self, instance_id: str, usual: float | None, percentile: float) -> float | None:
        """What an instance's TTFT at the SLO's percentile is held to; `usual` is the SLO's own, None without one.

        Where long prompts are rarer than what may miss the SLO, that percentile is one of the short ones.
        """
        mine = [pool for pool in self.pools if instance_id in pool.instances]
        rare = (1 - percentile / 100) * sum(pool.share for pool in mine)
        later = (pool.ttft_limit_s for pool in mine if pool.ttft_limit_s and pool.share > rare)
        return max(later, default=usual)


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """`also`: more nodes with the same router, each at its own address where `bind` is not every address. `address`:
    what clients connect to, where that is none of a node's own."""

    node: str
    bind: str
    port: int
    admin_port: int
    also: tuple[str, ...] = ()
    address: str | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.node, *self.also)


@dataclass(frozen=True, slots=True)
class Unused:
    node: str
    gpus: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    node_class: str
    service: str
    shape: str
    reason: str


@dataclass(frozen=True, slots=True)
class Objective:
    """One of the planner's objectives, the value it reached, and the part of it by which the best may be better."""

    name: str
    value: float
    gap: float | None  # None: nothing is proven


@dataclass(frozen=True, slots=True)
class Plan:
    cluster: str
    head: str  # the node that carries the Ray head, the router and the copy of the state
    instances: tuple[Instance, ...]
    services: tuple[ServicePlan, ...]
    router: RouterPlan
    unused: tuple[Unused, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()
    objectives: tuple[Objective, ...] = ()
    price_per_hour: float | None = None  # of all nodes in use, where each has a price
    inventory_hash: str = ""
    schema: int = 1
    hash: str = field(default="")

    def those(self, ids: Iterable[str]) -> list[Instance]:
        """Instances in the order of the ids: by one look through a large fleet, not one for each of them."""
        by_id = {i.id: i for i in self.instances}
        return [by_id[each] for each in ids]

    def on_node(self, node: str) -> tuple[Instance, ...]:
        """Instances that use any GPU of the node."""
        return tuple(i for i in self.instances if node in i.nodes)


def sealed(plan: Plan) -> Plan:
    """The plan with its content hash: equal plans have equal hashes, whatever machine made them."""
    body: bytes = _adapter().dump_json(replace(plan, hash=""))
    return replace(plan, hash=hashlib.sha256(body).hexdigest()[:12])


def to_json(plan: Plan) -> dict[str, Any]:
    body: dict[str, Any] = _adapter().dump_python(plan, mode="json")
    return body


def to_text(plan: Plan) -> bytes:
    """plan.json, as it is written: a fleet of ten thousand nodes has a hundred megabytes of it, which only programs
    read."""
    text: bytes = _adapter().dump_json(plan, indent=1 if len(plan.instances) <= MOST_READ else None)
    return text + b"\n"


def from_json(text: str | bytes) -> Plan:
    """Raises pydantic.ValidationError when the text is not a plan."""
    plan: Plan = _adapter().validate_json(text)
    return plan


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter  # heavy: only where a plan crosses the edge

    return TypeAdapter(Plan)


def by_service(instances: Iterable[Instance]) -> dict[str, tuple[Instance, ...]]:
    found: dict[str, list[Instance]] = {}
    for instance in instances:
        found.setdefault(instance.service, []).append(instance)
    return {name: tuple(members) for name, members in found.items()}
