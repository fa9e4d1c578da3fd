"""What torch's caching allocator makes of a list of tensors.

"Model loading took" counts its blocks on CUDA; on ROCm, until vLLM 0.32, what the device misses: whole segments.
Source: pytorch c10/cuda/CUDACachingAllocator.cpp (kSmallSize, kLargeBuffer, kMinLargeAlloc, kRoundLarge, should_split).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1 << 20
ROUND = 512
SMALL = 1 * MIB  # up to here: a pool of its own, split to the byte
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB  # what requests below 10 MiB are cut from
LEAST_OWN_SEGMENT = 10 * MIB
ROUND_LARGE = 2 * MIB


@dataclass(frozen=True, slots=True)
class Scratch:
    """Tensors that are made together and then freed: later ones fill their segments."""

    sizes: tuple[int, ...]


def allocated(sizes: Iterable[int]) -> int:
    """Bytes that count as allocated after these requests, in this order, none freed."""
    total, free = 0, list[int]()
    for size in sizes:
        size = -(-size // ROUND) * ROUND
        if size > SMALL:
            block, _ = _take(free, size)
            size = _cut(free, block, size)
        total += size
    return total


def reserved(steps: Iterable[int | Scratch]) -> int:
    """Bytes of all segments after these requests, in this order."""
    total, small, large = 0, list[int](), list[int]()
    for step in steps:
        made = []
        for size in step.sizes if isinstance(step, Scratch) else (step,):
            size = -(-size // ROUND) * ROUND
            free = small if size <= SMALL else large
            block, new = _take(free, size)
            total += new
            made.append((free, _cut(free, block, size)))
        if isinstance(step, Scratch):
            for free, block in made:
                insort(free, block)
    return total


def _take(free: list[int], size: int) -> tuple[int, int]:
    """The smallest free block that holds it, or a new segment; and how much is new."""
    at = bisect_left(free, size)
    if at < len(free):
        return free.pop(at), 0
    segment = _segment(size)
    return segment, segment


def _segment(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < LEAST_OWN_SEGMENT else -(-size // ROUND_LARGE) * ROUND_LARGE


def _cut(free: list[int], block: int, size: int) -> int:
    """What of the block is used: too little to split off stays part of it."""
    rest = block - size
    if rest > (SMALL if size > SMALL else 0):
        insort(free, rest)
        return size
    return block
