"""The speed model as a grid that the simulation's inner loop reads: one table for engines that are alike.

Every figure comes from `planner/speed`, at points that lie closer where steps are small; between them it is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmfleet.planner.simulate.compiled import column
from llmfleet.planner.simulate.steps import COLUMNS, HEADER, LAG, LENGTH, ROWS, SPAN, TOKENS
from llmfleet.planner.speed.steps import Steps

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """One kind of engine: its steps, the most sequences it runs, its longest context in tokens, pipeline stages."""

    steps: Steps
    seqs: int
    chunk: int
    longest: int
    pp: int = 1


def speed_tables(paces: Sequence[Pace]) -> tuple[Any, Any]:
    """Where each pace's table begins, and the tables."""
    tables = [_table(pace) for pace in paces]
    starts = np.cumsum([0, *(len(table) for table in tables)])[:-1]
    return column(starts.astype(np.int64)), column(np.concatenate(tables))


def tabled(pace: Pace) -> tuple[float, ...]:
    """The table of one pace alone."""
    return tuple(_table(pace).tolist())


def _table(pace: Pace) -> NDArray[Any]:
    steps, squares = pace.steps, (np.arange(COLUMNS) / SPAN) ** 2
    batches = [b for b in BATCHES if b < pace.seqs] + [pace.seqs]
    rows = np.arange(pace.seqs + 1)
    sampled = np.array([[steps.step_s(b, 0.0, float(prompt)) for prompt in squares * pace.chunk] for b in batches])
    base = np.stack([np.interp(rows, batches, sampled[:, i]) for i in range(COLUMNS)], axis=1).ravel()
    contexts = squares * pace.longest
    decode = np.array([steps.step_s(1, c) - steps.step_s(1, 0.0) for c in contexts])
    middle = max(1.0, pace.longest / 2)
    alone = steps.step_s(1, middle) - steps.step_s(1, 0.0)
    share = [(steps.step_s(b, middle) - steps.step_s(b, 0.0)) / alone if alone > 0 else 0.0 for b in batches]
    prefill = np.array([steps.prompt_attention_s(1.0, max(0.0, c - 0.5)) / pace.pp for c in contexts])
    header = np.zeros(HEADER)
    header[[ROWS, TOKENS, LENGTH, LAG]] = len(rows), max(1, pace.chunk), max(1, pace.longest), pace.pp - 1
    return np.concatenate([header, np.interp(rows, batches, share), decode, prefill, base])
