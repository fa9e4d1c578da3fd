"""What a plan needs to know of a trace: rate, peak, lengths and what prompts share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from llmfleet.planner.inventory.asked import Lengths, Traffic
from llmfleet.planner.traffic.traces import BLOCK, Traced

PARTS = 100  # lengths are kept at so many even parts of the requests
WINDOWS = 24  # the busiest of so many even parts of the trace is its peak, where they are long enough
LEAST_WINDOW_S, MOST_WINDOW_S = 60.0, 3600.0


def traffic_of(trace: Sequence[Traced], written: Traffic) -> Traffic:
    """The traffic as written, with the trace's own figures where it says none.

    Rates are requests/s over the time from the first request to the last; the peak is that of the busiest window, an
    hour or a 24th of the trace, whichever is less, and no less than a minute.
    """
    given = written.model_fields_set
    found: dict[str, object] = {}
    span = trace[-1].at or 1.0
    if "rate" not in given:
        found["rate"] = float(f"{len(trace) / span:.6g}")
    if "peak" not in given:
        found["peak"] = float(f"{peak(trace, span):.4g}")
    if "shared_prefix" not in given:
        found["shared_prefix"] = float(f"{shared(trace):.4g}")
    for key, tokens in (("input", [t.prompt for t in trace]), ("output", [t.answer for t in trace])):
        if key not in given:
            found[key] = lengths(tokens)
    return written.model_copy(update=found)


def peak(trace: Sequence[Traced], span: float) -> float:
    """Requests in the busiest window over those of an average one; 1 for a trace shorter than two windows."""
    window = min(MOST_WINDOW_S, max(LEAST_WINDOW_S, span / WINDOWS))
    whole = int(span // window)
    if whole < 2:
        return 1.0
    counts = Counter(min(int(t.at // window), whole) for t in trace)
    return max(1.0, max(counts[i] for i in range(whole)) * (span / window) / len(trace))


def lengths(tokens: Sequence[int]) -> Lengths:
    ordered = sorted(max(1, t) for t in tokens)
    last = len(ordered) - 1
    at = tuple(ordered[round(i * last / PARTS)] for i in range(PARTS + 1))
    return Lengths(mean=max(1, round(fmean(ordered))), p50=at[50], p90=at[90], p95=at[95], p99=at[99], quantiles=at)


def shared(trace: Sequence[Traced]) -> float:
    """Part of all prompt tokens that lie in blocks seen before: what a cache without bounds would save."""
    seen: set[int] = set()
    again = 0
    for request in trace:
        for i, block in enumerate(request.blocks):
            if block not in seen:
                seen.update(request.blocks[i:])
                break
            again += min(BLOCK, request.prompt - i * BLOCK)
    total = sum(t.prompt for t in trace)
    return min(1.0, max(0, again) / total) if total else 0.0
