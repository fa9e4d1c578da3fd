"""Pipelines over unequal nodes as candidates: for models that fit no class of nodes, and for nodes that stay idle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import floor, gcd

from llmfleet.planner.candidates.budgets import contexts, utilization
from llmfleet.planner.candidates.candidate import Candidate, Rating, Settings, Take, at_once
from llmfleet.planner.candidates.demand import Bucket, Demand
from llmfleet.planner.candidates.engines import EngineChoice, common_engine
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.memory.chains import size_chain, stage_room
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import GIB, EngineOptions, Memory, Shape
from llmfleet.planner.memory.weights import rank_weights
from llmfleet.planner.pipelines.search import Chain, Kind, chains, smallest
from llmfleet.planner.pipelines.simulation import FULL, TOGETHER, simulated_rate
from llmfleet.planner.pipelines.steps import ChainSteps, chain_steps
from llmfleet.planner.speed.batching import batching
from llmfleet.planner.speed.estimate import most_sequences, steps_of
from llmfleet.planner.speed.hardware import DEFAULT_NIC_BITS_S, HOP_LATENCY_S
from llmfleet.planner.speed.steps import Steps

SEQUENCES = 1024  # at once, over all stages
CHUNK = 1024  # tokens of a step: long ones hold up all stages behind them
LEAST_CONTEXT = 2048
MOST_STAGES = 64


def chain_candidates(demand: Demand, classes: Sequence[NodeClass], catalog: Catalog) -> list[Candidate]:
    """The best set of pipelines over nodes of all classes that one engine release serves; each exists once."""
    if demand.model.task != "generate" or not classes:
        return []
    found: list[tuple[float, list[Candidate]]] = []
    for members, engine in common_engine(demand.service, demand.model, classes, catalog):
        line = _Line(demand, tuple(members), engine)
        for chosen in line.best():
            made = [c for chain in chosen if (c := line.candidate(chain)) is not None]
            found.append((sum(simulated_rate(c) for c in made), made))
    return max(found, key=lambda pair: pair[0], default=(0.0, []))[1]


def sparing_chains(demand: Demand, classes: Sequence[NodeClass], catalog: Catalog) -> list[Candidate]:
    """Smaller pipelines than the best, which leave nodes to other services or take what others leave."""
    if demand.model.task != "generate":
        return []
    lines = [_Line(demand, tuple(m), e) for m, e in common_engine(demand.service, demand.model, classes, catalog)]
    return [c for line in lines for chain in line.sparing() if (c := line.candidate(chain)) is not None]


@dataclass(frozen=True)
class _Line:
    """What pipelines of one service over some classes have in common."""

    demand: Demand
    classes: tuple[NodeClass, ...]
    engine: EngineChoice
    _known: dict[tuple[str, int], int] = field(default_factory=dict)
    _turns: dict[tuple[str, float], float] = field(default_factory=dict)

    @cached_property
    def tp(self) -> int:
        """GPUs of a stage, the same on all nodes: the engine has one number for it."""
        widths = gcd(*(len(c.free) for c in self.classes), *(c.island for c in self.classes))
        return max(tp for tp in range(1, widths + 1) if widths % tp == 0 and not self.demand.model.tp_problem(tp))

    @cached_property
    def bucket(self) -> Bucket:
        return max(self.demand.buckets, key=lambda b: b.part)

    @cached_property
    def options(self) -> EngineOptions:
        wanted, least = contexts(self.demand, "main")
        return EngineOptions(
            version=self.engine.version,
            dtype=self.engine.dtype,
            quantization=self.engine.quantization,
            max_model_len=min(wanted, max(least, LEAST_CONTEXT)),
            max_num_seqs=SEQUENCES,
            max_num_batched_tokens=CHUNK,
            enforce_eager=self.demand.service.enforce_eager,
        )

    @cached_property
    def steps(self) -> dict[str, Steps]:
        """Of all layers on one stage's GPUs, by class."""
        return {
            c.name: steps_of(
                self.demand.model, c.gpu, Shape(self.tp), self.engine.precision, link=c.link, engine="vllm",
                chunk=self.options.max_num_batched_tokens or 2048,
            )
            for c in self.classes
        }  # fmt: skip

    @property
    def nic_bits_s(self) -> float:
        return min(c.nic_bits_s or DEFAULT_NIC_BITS_S for c in self.classes)

    @cached_property
    def kinds(self) -> list[Kind]:
        return [
            Kind(c.name, len(c.nodes), len(c.free) // self.tp, most, self._layer_s(c.name))
            for c in self.classes
            if (most := self._most(c))
        ]

    def best(self) -> list[list[Chain]]:
        return chains(self.kinds, self.demand.model.num_layers, self._rate, self._edge)

    def sparing(self) -> list[Chain]:
        return smallest(self.kinds, self.demand.model.num_layers, self._rate, self._edge)

    def _layer_s(self, name: str) -> float:
        request = self.bucket.request
        return self.steps[name].step_s(8, request.context, 8 * request.new / max(1.0, request.output_len))

    def _most(self, node_class: NodeClass) -> int:
        """Layers that a stage in the middle can hold beside the cache of one request."""
        layers = self.demand.model.num_layers
        allowed = floor(node_class.weights_gib * GIB / self._layer_bytes)
        least = self.options.max_model_len or 1
        fits = [n for n in range(1, min(allowed, layers - 2) + 1) if self._tokens(node_class.name, n) >= least]
        return max(fits, default=0)

    def _tokens(self, name: str, layers: int) -> int:
        """That the cache of a stage with so many layers holds, on that class."""
        if (name, layers) not in self._known:
            rest = self.demand.model.num_layers - layers
            shape = Shape(self.tp, 3, pp_partition=(rest // 2, layers, rest - rest // 2))
            gpu = next(c.gpu for c in self.classes if c.name == name)
            self._known[name, layers] = stage_room(self.demand.model, gpu, shape, self.options, 1).tokens
        return self._known[name, layers]

    @cached_property
    def _layer_bytes(self) -> float:
        """Of the costliest layer on one GPU."""
        shape = Shape(self.tp, 3, pp_partition=(1, 1, self.demand.model.num_layers - 2))
        settings = resolve(self.demand.model, self.classes[0].gpu, shape, self.options)
        return float(rank_weights(settings, 1))

    @cached_property
    def _edge(self) -> int:
        """How many layers embedding or head are as large as, at most."""
        model = self.demand.model
        ends = sum(w.elements for w in (*model.first, *model.last))
        body = sum(w.elements * (w.experts or 1) for layer in model.layers for w in layer.weights) / model.num_layers
        return max(1, round(ends / body + 0.49)) if body else 1

    def _rate(self, nodes: Sequence[tuple[str, tuple[int, ...]]]) -> float:
        """Requests/s as the sequences that the tightest cache holds over the time of a round trip.

        Parts of a batch catch up with one another behind the slowest stage: they go round in few, large ones.
        """
        request, total = self.bucket.request, self.demand.model.num_layers
        stages = [(name, n) for name, each in nodes for n in each]
        held = min(self._tokens(name, n) for name, n in set(stages))
        batch = most_sequences(request, float(held) or 1.0, self.options.max_num_seqs)
        batch *= FULL
        part = min(batch, float(TOGETHER))
        turn = {name: self._turn(name, round(part)) for name in {name for name, _ in stages}}
        times = [n / total * turn[name] + HOP_LATENCY_S for name, n in stages]
        return batch / (max(1.0, request.output_len) * max(sum(times), batch / part * max(times)))

    def _turn(self, name: str, part: float) -> float:
        """One step of a part of the batch through all layers on such GPUs, with the prompts that start meanwhile."""
        if (name, part) not in self._turns:
            request = self.bucket.request
            prompts = part * request.new / max(1.0, request.output_len)
            self._turns[name, part] = self.steps[name].step_s(part, request.context, prompts)
        return self._turns[name, part]

    def candidate(self, chain: Chain) -> Candidate | None:
        by_name = {c.name: c for c in self.classes}
        nodes = [by_name[name] for name, _ in chain.nodes]
        shape = Shape(self.tp, len(chain.layers), pp_partition=chain.layers)
        gpus = [by_name[name].gpu for name, stages in chain.nodes for _ in stages]
        memory = size_chain(self.demand.model, gpus, shape, self.options)
        if not memory.fits or shape.pp > MOST_STAGES:
            return None
        steps = chain_steps(chain.layers, [self.steps[n] for n, each in chain.nodes for _ in each], self.nic_bits_s)
        lead = max(nodes, key=lambda c: c.gpu.visible_gib)
        return self._rated(lead, shape, memory, steps, _takes(chain, by_name))

    def _rated(
        self, lead: NodeClass, shape: Shape, memory: Memory, steps: ChainSteps, takes: tuple[Take, ...]
    ) -> Candidate:
        held = memory.kv.most_sequences if memory.kv else SEQUENCES
        sequences = int(min(self.options.max_num_seqs or SEQUENCES, max(1, held)))
        settings = Settings(
            max_model_len=self.options.max_model_len or LEAST_CONTEXT,
            max_num_seqs=sequences,
            max_num_batched_tokens=self.options.max_num_batched_tokens or sequences,
            kv_cache_dtype="auto",
            kv_cache_memory_bytes=memory.kv.available_bytes if memory.kv else 0,
            gpu_memory_utilization=utilization(memory),
        )
        ratings = {}
        for bucket in self.demand.buckets:
            if not bucket.long:
                most = at_once(memory, bucket.request, sequences)
                load = batching(steps, bucket.request, most, bucket.limits)
                ratings[bucket.name] = Rating(inside=load.capacity(), best_effort=load.at_best(), idle=load.idle())
        span = sum(t.nodes for t in takes)
        formula = Candidate(
            self.demand, lead, shape, self.engine, memory, settings, "main", span, steps, ratings, stages=takes
        )
        return _as_simulated(formula, self.bucket.name)


def _as_simulated(c: Candidate, usual: str) -> Candidate:
    """Its rates cut to what the simulation reaches of the formula's highest."""
    best = c.ratings[usual].best_effort.rate
    factor = min(1.0, simulated_rate(c) / best) if best > 0 else 1.0
    return replace(c, ratings={name: rating.times(factor) for name, rating in c.ratings.items()})


def _takes(chain: Chain, by_name: dict[str, NodeClass]) -> tuple[Take, ...]:
    """Runs of nodes of one class, in the order of the stages."""
    runs: list[Take] = []
    for name, _ in chain.nodes:
        node_class = by_name[name]
        if runs and runs[-1].node_class is node_class:
            runs[-1] = replace(runs[-1], nodes=runs[-1].nodes + 1)
        else:
            runs.append(Take(node_class, 1, len(node_class.free)))
    return tuple(runs)
