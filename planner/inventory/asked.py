"""What clients ask of a service, and what they may expect."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmfleet.planner.inventory.shapes import Path
from llmfleet.planner.inventory.strict import Strict
from llmfleet.planner.inventory.units import FewSeconds, Seconds, Tokens


class Lengths(Strict):
    """Tokens of a request's input or output."""

    mean: Tokens = Field(description="Average over requests.")
    p50: Tokens | None = Field(
        default=None, description="Half of the requests are no longer; the planner's estimate if left out."
    )
    p99: Tokens | None = Field(
        default=None, description="Of 100 requests 99 are no longer; the planner's estimate if left out."
    )
    p90: Tokens | None = Field(
        default=None, description="Of 100 requests 90 are no longer; the planner's estimate if left out."
    )
    p95: Tokens | None = Field(
        default=None, description="Of 100 requests 95 are no longer; the planner's estimate if left out."
    )
    quantiles: tuple[Tokens, ...] = Field(
        default=(), description="Lengths at even parts of the requests, shortest first: [1, 200, 3000] is "
        "shortest, median, longest. They win over single percentiles; a trace gives 101 of them.",
    )


class Histogram(Strict):
    """Requests by tokens of input and output together, where the two go hand in hand."""

    input: tuple[Tokens, ...] = Field(description="Mean tokens of a prompt in each row.")
    output: tuple[Tokens, ...] = Field(description="Mean tokens of an answer in each column.")
    share: tuple[tuple[Annotated[float, Field(ge=0, le=1e6)], ...], ...] = Field(
        description="Part of the requests, one row for each input, one number for each output; any common factor."
    )
    slices: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="Into how many parts a cell may be cut between kinds of instance; 0: into any."
    )


class Traffic(Strict):
    """What clients ask of a service."""

    rate: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="Requests a second, on average; a trace's own if left out. One of the two is needed."
    )
    trace: Path | None = Field(
        default=None,
        examples=["./monday.csv"],
        description="A trace on this machine, found from the inventory's folder, with the columns of Azure's or "
        "Mooncake's: rate, peak, lengths and shared prefix are read from it where they are left out.",
    )
    input: Lengths = Field(default=Lengths(mean=1000), description="Tokens of a prompt.")
    output: Lengths = Field(
        default=Lengths(mean=200), description="Tokens of an answer; means nothing for embed and rerank."
    )
    histogram: Histogram | None = Field(
        default=None, description="Input and output together; takes the place of both."
    )
    shared_prefix: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Part of the input that other requests share, 0 to 1: what prefix caching can save."
    )
    peak: Annotated[float, Field(ge=1, le=1000)] = Field(default=1.0, description="Peak rate over mean rate.")
    growth: Annotated[float, Field(ge=0.01, le=1000)] = Field(
        default=1.0, description="Traffic to plan for over today's: 1.5 is half as much again."
    )
    low_priority: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Part of the requests that come with low priority: the others are served first."
    )


class Slo(Strict):
    """What clients may expect. Left out: no limit."""

    ttft: Seconds | None = Field(default=None, description="Time to first token; to the answer for embed and rerank.")
    tpot: FewSeconds | None = Field(default=None, description="Time per output token after the first.")
    percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        default=95, description="Part of the requests that must keep both, in percent."
    )
