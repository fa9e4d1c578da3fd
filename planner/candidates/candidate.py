"""One way to run an instance of a service on a node class, with its memory and the rates it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.engines import EngineChoice
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.memory.types import Memory, Shape
from llmfleet.planner.plan import Role
from llmfleet.planner.speed.batching import Batching, Steady, batching
from llmfleet.planner.speed.estimate import most_sequences
from llmfleet.planner.speed.pace import Scale, measured_itself
from llmfleet.planner.speed.request import Limits, Request
from llmfleet.planner.speed.steps import Steps


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine's own limits."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_dtype: str
    kv_cache_memory_bytes: int
    gpu_memory_utilization: float


@dataclass(frozen=True, slots=True)
class Rating:
    """`inside`: the highest load within the SLO. `best_effort`: the highest load at all."""

    inside: Steady
    best_effort: Steady
    idle: Steady

    def at(self, rate: float) -> Rating:
        """With a measured rate within the SLO in place of the estimate."""
        best = replace(self.best_effort, rate=max(rate, self.best_effort.rate))
        return Rating(replace(self.inside, rate=rate), best, self.idle)

    def times(self, factor: float) -> Rating:
        """With rates that are so many times as high."""
        inside = replace(self.inside, rate=factor * self.inside.rate)
        return Rating(inside, replace(self.best_effort, rate=factor * self.best_effort.rate), self.idle)


@dataclass(frozen=True, slots=True)
class Take:
    """`slot` GPUs on each of so many nodes of a class. A slot below 1 is a part of one GPU."""

    node_class: NodeClass
    nodes: int
    slot: float


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """`span`: nodes that one instance takes.

    `spare_worth`: what its capacity beyond the demand counts for. It is less than 1 where the instance is wider than
    another and does hardly more per GPU, since GPUs of one instance fail together, and where it shares its GPU.
    """

    demand: Demand
    node_class: NodeClass
    shape: Shape
    engine: EngineChoice
    memory: Memory
    settings: Settings
    role: Role
    span: int
    steps: Steps
    ratings: Mapping[str, Rating]  # by bucket; none for prompts that the role does not take
    spare_worth: float = 1.0
    stages: tuple[Take, ...] = ()  # of a pipeline over unequal nodes: its nodes in the order of the stages
    part: float = 1.0  # of its one GPU, which it shares with instances of other services

    @property
    def service(self) -> str:
        return self.demand.service.name

    @property
    def takes(self) -> tuple[Take, ...]:
        return self.stages or (Take(self.node_class, self.span, self.slot),)

    @property
    def slot(self) -> float:
        """GPUs on each node."""
        return self.part if self.part < 1 else self.shape.gpus // self.span

    @property
    def gpus(self) -> float:
        """GPUs in all; a part of one where they are shared."""
        return sum(t.slot * t.nodes for t in self.takes)

    @property
    def kv_tokens(self) -> float:
        return float(self.memory.kv.tokens) if self.memory.kv else 0.0

    @property
    def label(self) -> str:
        return shape_label(self.shape)

    @property
    def measured(self) -> Scale | None:
        """Measured over estimated time, where just such an instance was measured."""
        engine = self.engine
        return measured_itself(
            self.node_class.gpu, engine.engine, self.demand.model.name, engine.precision, self.shape
        )  # fmt: skip

    def batching(self, request: Request, limits: Limits) -> Batching:
        return batching(self.steps, request, self.most_sequences(request), limits)

    def most_sequences(self, request: Request) -> float:
        """At once."""
        return at_once(self.memory, request, self.settings.max_num_seqs)


def at_once(memory: Memory, request: Request, max_num_seqs: int) -> float:
    """Such requests that decode at the same time."""
    tokens = memory.kv.tokens_at(request.held) if memory.kv else None
    return most_sequences(request, tokens or None, max_num_seqs)


def shape_label(shape: Shape) -> str:
    if shape.gpus == 1:
        return "1 GPU"
    return (
        f"TP{shape.tp}" * (shape.tp > 1 or shape.pp == 1)
        + " × " * (shape.tp > 1 and shape.pp > 1)
        + f"PP{shape.pp}" * (shape.pp > 1)
    )
