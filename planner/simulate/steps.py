"""How long a step of an engine takes: the plan's speed model, read from the grid that speeds.py makes of it."""

from __future__ import annotations

from typing import Any

from llmfleet.planner.simulate.arrays import World
from llmfleet.planner.simulate.compiled import compiled

COLUMNS = 33  # of prompt tokens, and points of context
SPAN = COLUMNS - 1
# A table: rows, prompt tokens at the last column, context at the last point, pipeline stages that a first token has
# still to pass when its step ends; then attention of a batch against one sequence's, by row; attention of one sequence
# and of one prompt token, by point; then the steps themselves, a row of columns for each size of batch.
ROWS, TOKENS, LENGTH, LAG, HEADER = 0, 1, 2, 3, 4


@compiled
def base_s(world: World, table: int, batch: int, prompt: float) -> float:
    """A step of so many sequences and prompt tokens, attention to what is in the cache aside."""
    grid = world.grid
    rows = int(grid[table])
    at = table + HEADER + rows + 2 * COLUMNS + max(1, min(batch, rows - 1)) * COLUMNS
    if prompt <= 0:
        return float(grid[at])
    tokens = grid[table + TOKENS]
    place = min(float(SPAN), SPAN * (prompt / tokens) ** 0.5)
    low = min(int(place), SPAN - 1)
    t_low, t_high = (low / SPAN) ** 2 * tokens, ((low + 1) / SPAN) ** 2 * tokens
    part = (prompt - t_low) / (t_high - t_low)
    return float(grid[at + low] * (1 - part) + grid[at + low + 1] * part)


@compiled
def decode_s(world: World, table: int, batch: int, context: float) -> float:
    """Attention of a batch whose sequences hold `context` tokens each, on average."""
    grid = world.grid
    rows = int(grid[table])
    share = grid[table + HEADER + max(1, min(batch, rows - 1))]
    return float(share * _point(grid, table + HEADER + rows, context / grid[table + LENGTH]))


@compiled
def prefill_s(world: World, table: int, tokens: float, before: float) -> float:
    """Attention of `tokens` of a prompt to what is before them, and to one another."""
    grid = world.grid
    start = table + HEADER + int(grid[table]) + COLUMNS
    return float(tokens * _point(grid, start, (before + tokens / 2) / grid[table + LENGTH]))


@compiled
def _point(grid: Any, start: int, x: float) -> float:
    """Linear between points that are as far apart as squares; beyond the last as between the last two."""
    low = min(int(SPAN * max(0.0, x) ** 0.5), SPAN - 1)
    x_low, x_high = (low / SPAN) ** 2, ((low + 1) / SPAN) ** 2
    part = (x - x_low) / (x_high - x_low)
    return float(grid[start + low] * (1 - part) + grid[start + low + 1] * part)
