"""The shapes an instance can take on a node class: TP inside an island, pipelines where nothing else fits."""

from __future__ import annotations

from llmfleet.planner.candidates.engines import EngineChoice
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.model.types import Model

MOST_STAGES = 16


def tensor_shapes(
    model: Model, node_class: NodeClass, engine: EngineChoice
) -> tuple[list[Shape], list[tuple[Shape, str]]]:
    """Shapes inside one node without pipelines, smallest first, and those that the model or the link forbids."""
    fine: list[Shape] = []
    refused: list[tuple[Shape, str]] = []
    if engine.engine == "llama.cpp":
        return [Shape()], []  # its instances take one card
    for tp in _sizes(len(node_class.free)):
        problem = _tp_problem(model, node_class, tp)
        if problem:
            refused.append((Shape(tp=tp), problem))
        else:
            fine.append(Shape(tp=tp))
    return fine, refused


def pipeline_shapes(model: Model, node_class: NodeClass, engine: EngineChoice) -> list[tuple[Shape, int]]:
    """Pipelines and the nodes they span, fewest GPUs first: in a node, then over nodes with all GPUs of each."""
    if engine.engine != "vllm" or model.task != "generate":
        return []
    widths = [s.tp for s in tensor_shapes(model, node_class, engine)[0]]
    free = len(node_class.free)
    stages = min(MOST_STAGES, model.num_layers)
    inside = [(Shape(tp=tp, pp=pp), 1) for tp in widths for pp in range(2, stages + 1) if tp * pp <= free]
    widest = max(widths, default=1)
    across = [(Shape(tp=widest, pp=n), n) for n in range(2, min(stages, len(node_class.nodes)) + 1)]
    return sorted(inside, key=lambda s: (s[0].gpus, s[0].pp)) + across


def _sizes(free: int) -> list[int]:
    powers = [1 << i for i in range(free.bit_length()) if 1 << i <= free]
    return sorted({*powers, free})


def _tp_problem(model: Model, node_class: NodeClass, tp: int) -> str:
    problem = model.tp_problem(tp)
    if problem:
        return problem
    if node_class.linked and tp > node_class.island:
        return f"TP{tp} would leave the NVLink island of {node_class.island} GPUs"
    return ""
