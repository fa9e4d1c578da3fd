"""Instances that share a GPU with others: small models where there are fewer GPUs than whole instances want.

A part of a GPU counts as a GPU with that part of the memory, of the bandwidth and of the arithmetic. The memory is
exact: each engine is given its KV cache in bytes. The speed is what is left while the others are busy: the driver gives
processes turns. An instance that is alone at work is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import floor
from typing import Final

from llmfleet.planner.candidates.budgets import budget
from llmfleet.planner.candidates.build import rated
from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.engines import engine_choices
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.candidates.prune import wider_pays
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.plan import Role

VENDORS: Final = ("nvidia", "amd")  # whose drivers let several processes use a card by turns
PARTS: Final = (0.5, 0.25)  # each divides the one before: whatever fits by count fits into GPUs
MOST_GPUS = 8  # a service; where there are more, whole GPUs for small models do not matter


def scarce(demands: Sequence[Demand], classes: Iterable[NodeClass]) -> bool:
    """Whether GPUs are so few that a part of one matters."""
    return sum(len(c.nodes) * len(c.free) for c in classes) <= MOST_GPUS * len(demands)


def parts_of(demand: Demand, classes: Iterable[NodeClass], catalog: Catalog) -> list[Candidate]:
    """Instances of the service on a part of one GPU, on every class whose GPUs can be shared."""
    shared = [c for c in classes if not part_problem(c) and demand.service.name not in c.closed]
    return [made for c in shared for part in PARTS if (made := on_a_part(demand, c, part, catalog))]


def part_problem(node_class: NodeClass) -> str:
    """Why instances cannot share a GPU of the class; empty where they can."""
    return "" if node_class.gpu.vendor in VENDORS else f"several engines cannot share a {node_class.gpu.name}"


def part_of(gpu: Gpu, part: float) -> Gpu:
    """`memory_mib` stays the card's own: an engine's context is as large as on the whole. Measured throughputs were
    measured on whole cards."""
    return replace(
        gpu,
        visible_gib=gpu.visible_gib * part,
        bandwidth_gbs=gpu.bandwidth_gbs * part,
        tflops={name: peak * part for name, peak in gpu.tflops.items()},
        throughputs=(),
    )


def on_a_part(demand: Demand, node_class: NodeClass, part: float, catalog: Catalog) -> Candidate | None:
    """In the first precision that fits."""
    small, role, shape = replace(node_class, gpu=part_of(node_class.gpu, part)), _role(demand), Shape()
    for engine in engine_choices(demand.service, demand.model, node_class, catalog)[0]:
        memory, settings = budget(demand, small, engine, shape, role)
        if memory.fits and memory.tightest.weights_gib <= node_class.weights_gib:
            made = rated(demand, small, engine, shape, role, 1, memory, settings)
            of_card = floor(100 * part * settings.gpu_memory_utilization) / 100  # the engine compares with the card
            settings = replace(settings, gpu_memory_utilization=max(0.01, of_card))
            worth = (1 + wider_pays(node_class.gpu)) ** -(1 + PARTS.index(part))  # two small ones are no better
            return replace(made, node_class=node_class, settings=settings, part=part, spare_worth=worth)
    return None


def _role(demand: Demand) -> Role:
    return "long" if any(b.long for b in demand.buckets) else "main"
