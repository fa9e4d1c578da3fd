"""The requests of several kinds that come to one instance, as one mean request: how they stand in each other's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Bucket
from llmfleet.planner.speed.batching import Batching
from llmfleet.planner.speed.request import Limits, Request

NOTHING = 1e-9
LEAST_SHARE = 0.005  # of an instance's requests: below it a kind is none to make room for
PART_OF_A_STEP = 4
# A short prompt waits for half of a long one's piece that is under way, and shares its own step with the next. As one
# piece's wait is half of it, that is three times as much.
PIECES_MET = 3

Kinds = Sequence[tuple[Bucket, float]]  # their shares add up to 1


@dataclass(frozen=True, slots=True)
class Mix:
    """`limits`: of the kind of prompt that the SLO's percentile falls into.

    `threshold`: prompt tokens that one request gets of a step while others wait, where long prompts meet short ones; 0
    elsewhere. Without it the engine computes all of a long prompt before it begins with the next.
    """

    request: Request
    limits: Limits
    threshold: int

    def batching(self, c: Candidate) -> Batching:
        return c.batching(self.request, self.limits)


def mix_of(c: Candidate, parts: Mapping[str, float]) -> Mix:
    """`parts` of the service's requests by kind; where nothing comes to it, all kinds that its role takes."""
    buckets = c.demand.buckets
    given = parts if sum(parts.values()) > NOTHING else {b.name: b.part for b in buckets if b.name in c.ratings}
    total = sum(given.values()) or 1.0
    kinds = [(b, given[b.name] / total) for b in buckets if given.get(b.name, 0.0) > 0] or [(buckets[0], 1.0)]
    threshold = _threshold(c, kinds)
    last = _at_percentile(kinds)
    request = Request(
        input_len=_mean(kinds, "input_len"),
        output_len=_mean(kinds, "output_len"),
        prefix_hit=_mean(kinds, "prefix_hit"),
        tail_len=last.request.tail_len,
        unequal=_unequal(kinds, threshold) if len(kinds) > 1 else 0.0,
    )
    return Mix(request, last.limits, threshold)


def _mean(kinds: Kinds, name: str) -> float:
    return float(sum(getattr(bucket.request, name) * share for bucket, share in kinds))


def _at_percentile(kinds: Kinds) -> Bucket:
    """From the longest prompts down, the kind with which all are more than may miss the SLO."""
    rare = 1 - kinds[0][0].limits.percentile / 100
    longest = sorted(kinds, key=lambda kind: kind[0].request.tail_len, reverse=True)
    shares = accumulate(share for _, share in longest)
    return next((bucket for (bucket, _), above in zip(longest, shares, strict=True) if above > rare), longest[-1][0])


def _threshold(c: Candidate, kinds: Kinds) -> int:
    """A fourth of a step, where long prompts would fill several that short ones then wait for."""
    taken = {bucket.long for bucket, share in kinds if share > LEAST_SHARE}
    meet = len(taken) > 1 and c.engine.engine == "vllm" and c.demand.model.task == "generate"
    return c.settings.max_num_batched_tokens // PART_OF_A_STEP if meet else 0


def _unequal(kinds: Kinds, threshold: int) -> float:
    """Mean square over squared mean of the tokens that prompts add, those of pieces for the parts that they meet."""
    square = 0.0
    for bucket, share in kinds:
        new = bucket.request.new
        met = min(1.0, PIECES_MET * threshold / new) if threshold and new else 1.0
        square += share * new * new * met * bucket.request.unequally(bucket.limits.z)
    mean = sum(share * bucket.request.new for bucket, share in kinds)
    return square / (mean * mean) if mean else 1.0
