"""Instances that the inventory fixes by hand: checked, never moved, none added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmfleet.planner.candidates.budgets import budget
from llmfleet.planner.candidates.build import rated
from llmfleet.planner.candidates.candidate import Candidate, shape_label
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.engines import EngineChoice, engine_choices
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.candidates.parts import on_a_part, part_problem
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.choose.placing import Placed
from llmfleet.planner.errors import PlanError
from llmfleet.planner.inventory.model import Placement
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.plan import Role

PARTS = {"half": 0.5, "quarter": 0.25}


class Pins:
    """Gives out GPUs of single nodes. `classes` maps each node with usable GPUs to its class.

    A GPU that placements share is theirs alone: what is left of it no other service gets.
    """

    def __init__(self, classes: Mapping[str, NodeClass], catalog: Catalog) -> None:
        self._classes = classes
        self._catalog = catalog
        self._known: dict[tuple[object, ...], Candidate] = {}
        self._shared: dict[tuple[str, int], float] = {}  # by node and GPU: what is left of it
        self.taken: dict[str, frozenset[int]] = {}

    def place(self, demand: Demand) -> list[Placed]:
        """Raises PlanError for a placement that cannot be, with the place in the file and what would do."""
        placed = []
        for index, placement in enumerate(demand.service.placement):
            where = f"services.{demand.service.name}.placement[{index}]"
            for nodes in placement.instances():
                placed.append(self._one(demand, placement.model_copy(update={"nodes": nodes, "each": ()}), where))
        return _with_roles(demand, placed)

    def _one(self, demand: Demand, placement: Placement, where: str) -> Placed:
        classes = [self._class_of(name, where) for name in placement.nodes]
        shape = _shape(demand, placement, where)
        if placement.part:
            return self._on_a_part(demand, placement.nodes[0], PARTS[placement.part], where)
        slot = shape.gpus // len(placement.nodes)
        gpus = {name: self._take(name, slot, where) for name in placement.nodes}
        return Placed(self._candidate(demand, classes, shape, where), placement.nodes, gpus)

    def _on_a_part(self, demand: Demand, name: str, part: float, where: str) -> Placed:
        node_class = self._class_of(name, where)
        if problem := part_problem(node_class):
            raise PlanError(f"{where}: {problem}", hint="leave part out: it takes a whole one")
        key = (demand.service.name, node_class.name, part)
        if key not in self._known:
            made = on_a_part(demand, node_class, part, self._catalog)
            if made is None:
                raise PlanError(
                    f"{where}: {demand.model.name} does not fit into {part:g} of a {node_class.gpu.name}",
                    hint="a larger part or none, a smaller precision, a shorter context",
                )
            self._known[key] = made
        room = {gpu: left for (node, gpu), left in self._shared.items() if node == name and left >= part}
        gpu = min(room, key=lambda g: (room[g], g)) if room else self._take(name, 1, where)[0]
        self._shared[name, gpu] = self._shared.get((name, gpu), 1.0) - part
        return Placed(self._known[key], (name,), {name: (gpu,)})

    def _class_of(self, name: str, where: str) -> NodeClass:
        if name not in self._classes:
            raise PlanError(f"{where}: {name} has no GPUs that may be used", hint="give it gpus, or name another node")
        return self._classes[name]

    def _take(self, name: str, slot: int, where: str) -> tuple[int, ...]:
        free = [i for i in self._classes[name].free if i not in self.taken.get(name, frozenset())]
        if len(free) < slot:
            raise PlanError(
                f"{where}: {slot} GPUs of {name} are needed, {len(free)} are free",
                hint="a smaller tp, or fewer placements there",
            )
        self.taken[name] = self.taken.get(name, frozenset()) | set(free[:slot])
        return tuple(free[:slot])

    def _candidate(self, demand: Demand, classes: list[NodeClass], shape: Shape, where: str) -> Candidate:
        """On unlike nodes the one with the least memory decides."""
        tightest = min(classes, key=lambda c: c.gpu.visible_gib)
        key = (demand.service.name, tightest.name, shape, len(classes))
        if key not in self._known:
            engines = [self._engine(demand, c, where) for c in {c.name: c for c in classes}.values()]
            if len({(e.engine, e.version, e.precision) for e in engines}) > 1:
                found = ", ".join(
                    f"{c.name}: {e.version} {e.precision}" for c, e in zip(classes, engines, strict=False)
                )
                raise PlanError(
                    f"{where}: one instance needs one engine version and precision on all its nodes, not {found}"
                )
            self._known[key] = _checked(demand, tightest, engines[0], shape, len(classes), where)
        return self._known[key]

    def _engine(self, demand: Demand, node_class: NodeClass, where: str) -> EngineChoice:
        choices, refused = engine_choices(demand.service, demand.model, node_class, self._catalog)
        if not choices:
            raise PlanError(f"{where}: {demand.service.name} cannot run on {node_class.name}: {'; '.join(refused)}")
        return choices[0]


def _shape(demand: Demand, placement: Placement, where: str) -> Shape:
    nodes = len(placement.nodes)
    shape = Shape(placement.tp, placement.pp or nodes, pp_partition=placement.pp_partition)
    if len(set(placement.nodes)) < nodes:
        raise PlanError(f"{where}: a node is named twice", hint="give it a larger tp instead")
    if shape.pp % nodes:
        raise PlanError(
            f"{where}: {shape.pp} pipeline stages do not spread over {nodes} nodes", hint=f"pp: a multiple of {nodes}"
        )
    if shape.pp_partition and (
        len(shape.pp_partition) != shape.pp or sum(shape.pp_partition) != demand.model.num_layers
    ):
        layers = f"{demand.model.num_layers} layers into {shape.pp} stages"
        raise PlanError(
            f"{where}: pp_partition {list(shape.pp_partition)} does not cut {layers}",
            hint=f"{shape.pp} numbers that add up to {demand.model.num_layers}",
        )
    problem = demand.model.tp_problem(shape.tp, ep=shape.ep)
    if problem:
        raise PlanError(f"{where}: {problem}")
    return shape


def _checked(
    demand: Demand, node_class: NodeClass, engine: EngineChoice, shape: Shape, span: int, where: str
) -> Candidate:
    if engine.engine == "llama.cpp" and shape.gpus > 1:
        raise PlanError(f"{where}: a llama.cpp instance takes one card, not {shape_label(shape)}")
    role: Role = "long" if demand.over else "main"
    memory, settings = budget(demand, node_class, engine, shape, role)
    if not memory.fits and role == "long":
        role = "main"
        memory, settings = budget(demand, node_class, engine, shape, role)
    if not memory.fits:
        raise PlanError(
            f"{where}: {shape_label(shape)} of {demand.model.name} does not fit: {memory.reason}", hint=_hint(demand)
        )
    return rated(demand, node_class, engine, shape, role, span, memory, settings)


def _hint(demand: Demand) -> str:
    return "more GPUs (tp, pp), a smaller precision" + (
        ", a shorter context" if demand.model.task == "generate" else ""
    )


def _with_roles(demand: Demand, placed: list[Placed]) -> list[Placed]:
    """Only the instances with the most KV cache are for long prompts, unless all are alike."""
    most = max((p.candidate.kv_tokens for p in placed if p.candidate.role == "long"), default=0.0)
    if not demand.over or all(p.candidate.kv_tokens == most for p in placed):
        return placed
    short = {p.candidate: _short(p.candidate) for p in placed if p.candidate.kv_tokens < most}
    return [replace(p, candidate=short.get(p.candidate, p.candidate)) for p in placed]


def _short(candidate: Candidate) -> Candidate:
    ratings = {b.name: candidate.ratings[b.name] for b in candidate.demand.buckets if not b.long}
    return replace(candidate, role="main", ratings=ratings)
