"""From what was decided to the values of a plan: instances with ports and limits, pools with shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, inf, sqrt
from pathlib import PurePosixPath
from typing import Literal

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.mix import LEAST_SHARE, NOTHING, mix_of
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.choose.placing import Placed
from llmfleet.planner.explain import instance_reason
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.memory.settings import DTYPE_NAMES
from llmfleet.planner.memory.weights import partition
from llmfleet.planner.plan import Expected, Instance, Pool, Role, RouterPlan, ServicePlan
from llmfleet.planner.ports import Ports, address_of
from llmfleet.planner.speed.batching import Steady
from llmfleet.planner.speed.estimate import expected
from llmfleet.planner.weights_source import source_target

HEAVIEST = 1000


class Facts:
    """What all instances of a candidate have in common; worked out once, since a fleet has thousands of them."""

    def __init__(self, decision: Decision, candidate: Candidate) -> None:
        self._decision = decision
        self._candidate = candidate
        self.count = decision.counts[candidate]
        self.spread = decision.spreads[candidate.service]
        self.part = self.spread.part(candidate)
        self.mix = mix_of(candidate, self.spread.parts.get(candidate, {}))
        self.batching = self.mix.batching(candidate)
        self.capacity_rps = self._share_of_capacity()
        self.expected = self._expected()
        self.max_concurrency = self._max_concurrency()
        self.reason = instance_reason(decision, candidate, self.mix.threshold)
        self.weights_path = weights_path(candidate, decision.inventory)

    @property
    def rate(self) -> float:
        """Requests/s of the peak that one instance takes."""
        return self.part * self._candidate.demand.rate / self.count

    def _capacity(self) -> Steady:
        inside = self.batching.capacity()
        return inside if inside.rate > NOTHING else self.batching.at_best()

    def _share_of_capacity(self) -> float:
        """What one instance takes when the service is full: its part of the mix, which may not be the service's."""
        if self.part > NOTHING and self.spread.capacity_rps:
            return self.spread.capacity_rps * self.part / self.count
        return self._capacity().rate

    def _expected(self) -> Expected:
        """At its share of the peak; without traffic or beyond its capacity: at its capacity."""
        rate = self.rate
        steady = self.batching.at_rate(rate) if 0 < rate < self.capacity_rps else self._capacity()
        return expected(steady, self.mix.request, self._candidate.node_class.gpu)

    def _max_concurrency(self) -> int:
        """As many as the SLO and the KV cache allow at once, a busy moment included."""
        c, request = self._candidate, self.mix.request
        if c.demand.service.max_concurrency:
            return min(c.demand.service.max_concurrency, c.settings.max_num_seqs)
        if not request.output_len:  # one step's worth at work and one waiting
            held = 2 * c.settings.max_num_batched_tokens / request.input_len
        else:
            steady = self._capacity()
            swollen = steady.batch + self.mix.limits.z * sqrt(steady.batch)
            held = min(self.batching.most, swollen) + steady.rate * steady.ttft_s
        return max(1, min(c.settings.max_num_seqs, ceil(held)))


def instances(decision: Decision, facts: Mapping[Candidate, Facts], router: RouterPlan) -> list[Instance]:
    inventory = decision.inventory
    nodes = {node.name: node for node in inventory.nodes}
    taken = {address_of(nodes[name]): (router.port, router.admin_port) for name in router.nodes}
    ports = Ports(inventory.engine_port, taken)
    numbers: Counter[tuple[str, str]] = Counter()
    weights = _weights(facts)
    made = []
    for placed in decision.placed:
        service, node = placed.candidate.service, placed.nodes[0]
        port = ports.take(address_of(nodes[node]))
        name = f"{service}-{node}-{numbers[service, node]}"
        numbers[service, node] += 1
        made.append(_instance(placed, facts[placed.candidate], inventory, name, port, weights))
    return made


def _instance(
    placed: Placed, facts: Facts, inventory: Inventory, name: str, port: int, weights: Mapping[Candidate, int]
) -> Instance:
    c, settings, service = placed.candidate, placed.candidate.settings, placed.candidate.demand.service
    pinned = c.engine.version == c.engine.release.version
    return Instance(
        id=name,
        service=service.name,
        model=service.model,
        task=service.task,
        engine=c.engine.engine,
        engine_version=c.engine.version,
        image=c.engine.release.image if pinned else None,
        nodes=placed.nodes,
        gpus=placed.gpus,
        tp=c.shape.tp,
        pp=c.shape.pp,
        pp_partition=c.shape.pp_partition,
        dtype=DTYPE_NAMES.get(c.engine.dtype, c.engine.dtype),
        quantization=c.engine.quantization,
        kv_cache_dtype=settings.kv_cache_dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        port=port,
        budget=c.memory.tightest,
        expected=facts.expected,
        weight=weights[c],
        max_concurrency=facts.max_concurrency,
        reason=facts.reason,
        weights_path=facts.weights_path,
        weights_source=service.source,
        enforce_eager=service.enforce_eager,
        accelerator="cpu" if c.node_class.gpu.vendor == "cpu" else "gpu",
        capacity_rps=float(f"{facts.capacity_rps:.4g}"),
        layers=_layers(placed) if c.shape.pp > 1 else None,
        gpu_share=c.part,
        long_prefill_token_threshold=facts.mix.threshold,
        multi_node=_multi_node(placed, inventory),
    )


def _layers(placed: Placed) -> dict[str, tuple[int, int]]:
    """Stages follow one another over the nodes, as many on each as it has groups of `tp` GPUs."""
    c, start = placed.candidate, 0
    counts = list(partition(c.demand.model.num_layers, c.shape))
    found = {}
    for node in placed.nodes:
        stages = len(placed.gpus[node]) // c.shape.tp
        held, counts = sum(counts[:stages]), counts[stages:]
        found[node] = (start, start + held)
        start += held
    return found


def _multi_node(placed: Placed, inventory: Inventory) -> Literal["ray", "mp"]:
    """vLLM's own processes want the same number of GPUs on each node; Ray takes any."""
    if len(placed.nodes) == 1 or len({len(gpus) for gpus in placed.gpus.values()}) > 1:
        return "ray"
    return inventory.policy.multi_node


def weights_path(c: Candidate, inventory: Inventory) -> str:
    service = c.demand.service
    if service.path:
        return service.path
    if service.source:
        return f"{{models}}/{source_target(service.source)}"
    name = PurePosixPath(service.model).name if service.model.startswith(("/", ".", "~")) else service.model
    folder = f"{inventory.models_dir.rstrip('/')}/{name}"
    if c.engine.engine == "llama.cpp" and not folder.endswith(".gguf"):
        return f"{folder}-{c.engine.precision}.gguf"  # it takes a file
    return folder


def service_plans(decision: Decision, made: Iterable[Instance]) -> list[ServicePlan]:
    by_candidate: dict[Candidate, list[str]] = {}
    for placed, instance in zip(decision.placed, made, strict=True):
        by_candidate.setdefault(placed.candidate, []).append(instance.id)
    return [_service_plan(decision, name, by_candidate) for name in (d.service.name for d in decision.demands)]


def _service_plan(decision: Decision, name: str, by_candidate: Mapping[Candidate, list[str]]) -> ServicePlan:
    demand = next(d for d in decision.demands if d.service.name == name)
    spread = decision.spreads[name]
    capacity = spread.capacity_rps
    return ServicePlan(
        name=name,
        model=demand.service.model,
        task=demand.service.task,
        demand_rps=float(f"{demand.rate:.4g}"),
        capacity_rps=float(f"{capacity:.4g}"),
        slo_met=bool(decision.of(name)) and spread.inside and capacity >= demand.rate,
        pools=tuple(_pools(decision, name, by_candidate)),
        fallback=demand.service.fallback,
        prefix_bytes=demand.service.prefix_bytes,
    )


def _pools(decision: Decision, name: str, by_candidate: Mapping[Candidate, list[str]]) -> list[Pool]:
    """Instances for long prompts are in two pools where they also take a part of the short ones."""
    demand = next(d for d in decision.demands if d.service.name == name)
    members, parts = decision.of(name), decision.spreads[name].parts
    long = [c for c in members if c.role == "long"]
    usual = [c for c in members if c.role != "long"]
    ids = {role: tuple(i for c in mine for i in by_candidate[c]) for role, mine in (("long", long), ("main", usual))}
    if not usual or not long:
        role: Role = "fallback" if name in decision.fallbacks and not demand.rate else "main"
        return [Pool(role, ids["main"] or ids["long"], 1.0, role)] if members else []
    over = {b.name: b.limits.ttft_s for b in demand.buckets if b.long}
    taken = [(kind in over, part) for c in long for kind, part in parts.get(c, {}).items()]
    short = sum(part for is_long, part in taken if not is_long)
    pools = [Pool("main", ids["main"], _rounded(1 - sum(part for _, part in taken)), "main")]
    if short > LEAST_SHARE:
        pools.append(Pool("shared", ids["long"], _rounded(short), "main"))
    limit = float(f"{latest:.4g}") if (latest := max(over.values(), default=inf)) < inf else None
    return [*pools, Pool("long", ids["long"], _rounded(1 - sum(p.share for p in pools)), "long", demand.over, limit)]


def _rounded(share: float) -> float:
    return round(max(0.0, share), 6)


def _weights(facts: Mapping[Candidate, Facts]) -> dict[Candidate, int]:
    """Among the instances of a service and role 1..HEAVIEST: by their part of the traffic, without any by capacity."""
    alike: dict[tuple[str, Role], list[Candidate]] = {}
    for c in facts:
        alike.setdefault((c.service, c.role), []).append(c)
    weights: dict[Candidate, int] = {}
    for members in alike.values():
        taken = {c: facts[c].part / facts[c].count for c in members}
        if max(taken.values()) <= NOTHING:
            taken = {c: facts[c].capacity_rps for c in members}
        heaviest = max(*taken.values(), NOTHING)
        weights |= {c: max(1, round(HEAVIEST * part / heaviest)) for c, part in taken.items()}
    return weights
