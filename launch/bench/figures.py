"""What a run says: percentiles, rates, goodput; and whether it was the server that was measured, or the client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from llmfleet.launch.bench.load import Run
from llmfleet.launch.bench.stream import Sample

PERCENTILES = (50, 90, 95, 99)
BUSY = 0.85  # of a core: beyond it the client waits for itself
LATE_PART, LATE_S = 0.05, 0.005  # sent later than due: this part of the median TTFT, and more than so many seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; None: any time is good."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float = 95.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in ms by percentile and mean, rates a second. `attained`: share of all requests within the limits.

    `client_limited` says, if it does, why these figures are the client's and not the server's.
    """

    users: int | None
    rate_rps: float | None
    requests: int
    errors: dict[str, int]
    seconds: float
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]
    itl_ms: dict[str, float]
    e2e_ms: dict[str, float]
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    goodput_rps: float
    attained: float
    prompt_tokens: float
    answer_tokens: float
    prefix_hit_rate: float | None
    degraded: float
    client_cpu: float
    client_late_ms: float
    client_limited: str | None = None


def figures(run: Run, limits: Limits) -> Figures:
    good = [s for s in run.samples if s.ok]
    span = run.seconds
    kept = [s for s in good if within(s, limits) and not s.degraded]
    tpot = [t for s in good if (t := s.tpot_s) is not None]
    prompts, answers = [s.prompt for s in good], [s.answer for s in good]
    told = [s for s in good if s.cached is not None and s.prompt]
    ttft = spread([s.ttft_s for s in good])
    late = percentile(sorted(run.late_s), 99) if run.rate is not None and run.samples else 0.0
    return Figures(
        users=run.users,
        rate_rps=rounded(run.rate) if run.rate is not None else None,
        requests=len(run.samples),
        errors=dict(Counter(s.error for s in run.samples if not s.ok).most_common(5)),
        seconds=rounded(span),
        ttft_ms=ttft,
        tpot_ms=spread(tpot),
        itl_ms=spread([gap for s in good for gap in s.gaps]),
        e2e_ms=spread([s.e2e_s for s in good]),
        requests_per_s=rounded(len(good) / span),
        output_tokens_per_s=rounded(sum(answers) / span),
        total_tokens_per_s=rounded((sum(answers) + sum(prompts)) / span),
        goodput_rps=rounded(len(kept) / span),
        attained=rounded(len(kept) / len(run.samples)) if run.samples else 0.0,
        prompt_tokens=rounded(fmean(prompts)) if prompts else 0.0,
        answer_tokens=rounded(fmean(answers)) if answers else 0.0,
        prefix_hit_rate=rounded(sum(s.cached or 0 for s in told) / sum(s.prompt for s in told)) if told else None,
        degraded=rounded(sum(s.degraded for s in good) / len(good)) if good else 0.0,
        client_cpu=rounded(run.cpu),
        client_late_ms=rounded(late * 1000),
        client_limited=_limited(run, late, ttft),
    )


def _limited(run: Run, late: float, ttft: dict[str, float]) -> str | None:
    if run.cpu > BUSY:
        return f"the client took {run.cpu * 100:.0f} % of a core: it waited for itself"
    if late > max(LATE_S, LATE_PART * ttft.get("p50", 0.0) / 1000):
        return f"one request in a hundred was sent {late * 1000:.0f} ms late or more"
    return None


def within(sample: Sample, limits: Limits) -> bool:
    tpot = sample.tpot_s or 0.0
    return (limits.ttft_s is None or sample.ttft_s <= limits.ttft_s) and (
        limits.tpot_s is None or tpot <= limits.tpot_s
    )


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles in ms; empty without values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {"mean": rounded(fmean(ordered) * 1000)} | {
        f"p{p}": rounded(percentile(ordered, p) * 1000) for p in PERCENTILES
    }


def percentile(ordered: Sequence[float], p: float) -> float:
    """Linear between the two nearest, as numpy does it."""
    place = (len(ordered) - 1) * p / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def rounded(value: float) -> float:
    return float(f"{value:.4g}")
