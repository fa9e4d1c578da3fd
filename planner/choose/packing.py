"""Which sets of slots fit into one node, so that counting slots over a class is enough."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

MOST_PATTERNS = 400


def islands(free: Sequence[int], island: int) -> list[list[int]]:
    """Free GPU indices by the island they are in."""
    groups: dict[int, list[int]] = {}
    for index in free:
        groups.setdefault(index // island, []).append(index)
    return [groups[key] for key in sorted(groups)]


def divisible(sizes: Sequence[float]) -> bool:
    """Whether each size divides the next: then filling nodes from the largest slot down never wastes room."""
    ordered = sorted(set(sizes))
    return all(b % a == 0 for a, b in pairwise(ordered))


def patterns(room: Sequence[float], sizes: Sequence[float]) -> list[dict[float, int]]:
    """The fullest sets of slots, as counts by size, that fit into islands with that many free GPUs.

    A slot larger than any island takes whole islands together.
    """
    ordered = sorted(set(sizes), reverse=True)
    found: list[dict[float, int]] = []

    def extend(chosen: dict[float, int], start: int) -> None:
        if len(found) >= MOST_PATTERNS:
            return
        grew = False
        for i in range(start, len(ordered)):
            bigger = {**chosen, ordered[i]: chosen.get(ordered[i], 0) + 1}
            if fits(room, bigger):
                grew = True
                extend(bigger, i)
        if not grew and chosen and not any(fits(room, {**chosen, s: chosen.get(s, 0) + 1}) for s in ordered):
            found.append(chosen)

    extend({}, 0)
    return found


def fits(room: Sequence[float], slots: dict[float, int]) -> bool:
    """First-fit decreasing, which is exact for the few sizes and islands of a node."""
    left = list(room)
    for size in sorted(slots, reverse=True):
        for _ in range(slots[size]):
            if not _take(left, size):
                return False
    return True


def _take(left: list[float], size: float) -> bool:
    tight = min((i for i, free in enumerate(left) if free >= size), key=lambda i: left[i], default=None)
    if tight is not None:
        left[tight] -= size
        return True
    if size <= max(left, default=0) or sum(left) < size:
        return False
    for i, free in enumerate(left):
        taken = min(free, size)
        left[i] -= taken
        size -= taken
    return True
