"""Wider shapes that are not worth it, and those that are worth it only where the demand needs them.

A wider instance that does no more per GPU is pointless. One that does a little more is for demand that would go
unserved otherwise: what it brings beyond that is inside the estimate's own error, and its GPUs fail together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.plan import Rejected

SMALLEST = 1e-9


def wider_pays(gpu: Gpu) -> float:
    """What a wider instance must do more per GPU than a narrower one: half of the upward band of an estimate."""
    return 0.1 if gpu.calibrated else 0.2


@dataclass(frozen=True, slots=True)
class Pruned:
    """`gain`: what `wide` does more than `narrow` on the same GPUs, as a part of it; None: neither keeps the SLO.

    Without `pointless` the choice may still take the wide one.
    """

    wide: Candidate
    narrow: Candidate
    gain: float | None
    pointless: bool

    def rejected(self) -> Rejected:
        split = any(b.long for b in self.wide.demand.buckets)
        shape = f"{self.wide.label} {self.wide.engine.precision}" + f" ({self.wide.role} pool)" * split
        return Rejected(self.wide.node_class.name, self.wide.service, shape, self._reason())

    def _reason(self) -> str:
        if self.gain is None:
            return f"no better inside the SLO than {self.narrow.label}, which takes fewer GPUs"
        many = self.wide.shape.gpus // self.narrow.shape.gpus
        bucket = next(iter(self.wide.ratings))
        one, others = self.wide.ratings[bucket].inside.rate, many * self.narrow.ratings[bucket].inside.rate
        return (
            f"1 × {self.wide.label} does {one:.2f} req/s inside the SLO, {many} × {self.narrow.label} on the same GPUs "
            f"{others:.2f}: {more(self.gain)}{self.need()}"
        )


    def need(self) -> str:
        """What more it would have to do, where it does more at all."""
        percent = 100 * wider_pays(self.wide.node_class.gpu)
        return f", and GPUs that fail together must bring {percent:.0f} %" if self.gain and self.gain > 0 else ""


def worthwhile(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Pruned]]:
    """Candidates of one service on one class, in order of width, without those that a narrower one makes pointless."""
    kept: list[Candidate] = []
    pruned: list[Pruned] = []
    for wide in candidates:
        rivals = [c for c in kept if c.role == wide.role and c.shape.gpus < wide.shape.gpus]
        pointless = next((c for c in rivals if not _does_more(wide, c, 1.0)), None)
        dear = next((c for c in rivals if not _does_more(wide, c, 1 + wider_pays(wide.node_class.gpu))), None)
        if rival := pointless or dear:
            pruned.append(Pruned(wide, rival, _gain(wide, rival), pointless is not None))
        if pointless is None:
            kept.append(replace(wide, spare_worth=1 / (1 + wider_pays(wide.node_class.gpu))) if dear else wide)
            if dear:
                pruned[-1] = replace(pruned[-1], wide=kept[-1])
    return kept, pruned


def more(gain: float) -> str:
    percent = round(100 * gain)
    return f"{percent} % more" if percent > 0 else f"{-percent} % less" if percent < 0 else "no more"


def _per_gpu(candidate: Candidate, bucket: str) -> float:
    return candidate.ratings[bucket].inside.rate / candidate.shape.gpus


def _does_more(wide: Candidate, narrow: Candidate, factor: float) -> bool:
    """Per GPU and for any kind of request: inside the SLO, or at all where neither manages that."""
    rates = [(_per_gpu(wide, bucket), _per_gpu(narrow, bucket)) for bucket in wide.ratings]
    if any(ours > SMALLEST and ours > factor * theirs * (1 + 1e-6) for ours, theirs in rates):
        return True
    slow = [b for b in wide.ratings if narrow.ratings[b].inside.rate <= SMALLEST]
    return all(ours <= SMALLEST for ours, _ in rates) and any(
        _at_best_per_gpu(wide, b) > factor * _at_best_per_gpu(narrow, b) for b in slow
    )


def _at_best_per_gpu(candidate: Candidate, bucket: str) -> float:
    return candidate.ratings[bucket].best_effort.rate / candidate.shape.gpus


def _gain(wide: Candidate, narrow: Candidate) -> float | None:
    bucket = next(iter(wide.ratings))
    theirs = _per_gpu(narrow, bucket)
    return _per_gpu(wide, bucket) / theirs - 1 if theirs > SMALLEST else None
