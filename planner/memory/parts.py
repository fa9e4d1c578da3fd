"""A GPU's budget from bytes: parts, and what they leave."""

from __future__ import annotations

from llmfleet.planner.figures import Budget
from llmfleet.planner.memory.types import GIB


def budget(total: float, weights: float, activation: float, non_torch: float, graphs: float, cache: float) -> Budget:
    """All in bytes."""
    slack = total - weights - activation - non_torch - graphs - cache
    return Budget(total / GIB, weights / GIB, activation / GIB, non_torch / GIB, graphs / GIB, cache / GIB, slack / GIB)
