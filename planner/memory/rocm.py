"""What vLLM calls a model's memory on AMD: until 0.32 not its tensors, but what the device has less of after loading.

So it counts whole segments of torch's allocator, what temporary tensors leave in them, and the device's libraries
(vllm/platforms/rocm.py:get_current_memory_usage asks mem_get_info).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil

from llmfleet.planner.memory.allocator import MIB, Scratch
from llmfleet.planner.model.types import Layer, Rope, Weight

COUNTS_DEVICE = (0, 9, 0), (0, 32, 0)  # from the first release seen to do so to the first seen to count tensors
LIBRARIES = {"rdna4": 70 * MIB, "cdna": 22 * MIB}  # kernels and handles that come with the first tensors (from logs)


def rope_scratch(ropes: Iterable[Rope]) -> Iterator[Scratch]:
    """A table is made in 32 bits: angles, cosines, sines, both joined; a linearly scaled one is joined once more."""
    for rope in ropes:
        half = rope.positions * rope.dim * 2
        parts = (half, half, half, 2 * half)
        yield from [Scratch((*parts, 2 * half) if rope.linear else parts)] * rope.tables


def integer_experts(layer: Layer) -> tuple[Weight, ...]:
    """Expert matrices of weight-only integers, for which AMD has no Marlin kernels."""
    return tuple(w for w in layer.weights if w.experts and w.format and "int" in w.format.name and len(w.shape) > 1)


def order_tensors(layer: Layer, tp: int, ep: int) -> list[int]:
    """Activation orders of integer experts: four 32-bit tensors that these kernels keep though nothing needs them.

    Source: compressed_tensors_moe.py:CompressedTensorsWNA16MoEMethod.create_weights.
    """
    up = next((w for w in integer_experts(layer) if w.split == "out"), None)
    if up is None:
        return []
    count, inner = ceil(up.experts / ep), up.shape[0] if ep > 1 else ceil(up.shape[0] / tp)
    return [4 * count * size for size in (up.shape[1], inner) for _ in range(2)]
