"""Measured time over estimated time, of decode steps and of prompts.

The nearest measurements count: of the same instance, else of the same model in that precision, else of all that ran on
such GPUs with that engine; of several, their geometric mean. An instance that was measured itself is believed wholly.
Others tell of it what they share with it: the less was known of the class before, and the more of them agree, the more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from llmfleet.planner.catalog.types import Gpu, Pace
from llmfleet.planner.figures import EngineName
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.model.storage import DTYPES


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors on the times of decode steps and of prompts."""

    decode: float = 1.0
    prefill: float = 1.0


ESTIMATED = Scale()

APART = 0.15  # measured from estimated time: a difference that is worth a warning

# Relative errors: of a class by the catalogue, with and without published measurements of it, and of what one run tells
# of another model, or of the same one in another shape (docs/validation.md).
KNOWN, UNKNOWN = 0.08, 0.2
OTHER_MODEL, OTHER_SHAPE = 0.12, 0.07


def scale_of(gpu: Gpu, engine: EngineName, model: str, precision: str, shape: Shape) -> Scale:
    """ESTIMATED without measurements of such GPUs under that engine."""
    itself = measured_itself(gpu, engine, model, precision, shape)
    if itself is not None:
        return itself
    mine = [p for p in gpu.paces if p.engine == engine]
    same = _same(mine, model, precision)
    before = (KNOWN if gpu.calibrated else UNKNOWN) ** 2
    if same:
        return _scale(same, before / (before + OTHER_SHAPE**2 / len(same)))
    return _scale(mine, before / (before + OTHER_MODEL**2 / len(mine))) if mine else ESTIMATED


def measured_itself(gpu: Gpu, engine: EngineName, model: str, precision: str, shape: Shape) -> Scale | None:
    """By measurements of just such an instance; None without any."""
    same = _same([p for p in gpu.paces if p.engine == engine], model, precision)
    exact = [p for p in same if (p.tp, p.pp) == (shape.tp, shape.pp)]
    return _scale(exact, 1.0) if exact else None


def _same(paces: Sequence[Pace], model: str, precision: str) -> list[Pace]:
    return [p for p in paces if (p.model, p.precision) == (model, plain(precision))]


def _scale(paces: Sequence[Pace], trust: float) -> Scale:
    return Scale(_mean([p.decode for p in paces]) ** trust, _mean([p.prefill for p in paces]) ** trust)


def plain(precision: str) -> str:
    """One name for each: float16 and half are fp16."""
    return DTYPES.get(precision.lower(), precision.lower())


def _mean(values: Sequence[float]) -> float:
    return exp(sum(map(log, values)) / len(values))
