"""What each service is asked for at its peak, cut into kinds of request by prompt length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from statistics import NormalDist

from llmfleet.planner.candidates.lengths import LengthModel, Quantiles, length_model
from llmfleet.planner.inventory.asked import Histogram, Traffic
from llmfleet.planner.inventory.model import Service
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.request import Limits, Request

# What a service without traffic is rated by. It takes one instance and whatever is left over.
NO_TRAFFIC = Traffic(rate=0)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests alike: `rate` a second at the peak. `long`: their prompts are over the service's threshold."""

    name: str
    rate: float
    part: float  # of the service's requests
    long: bool
    request: Request
    limits: Limits


@dataclass(frozen=True, slots=True)
class Demand:
    """`rate`: requests/s of all buckets at the peak. `tail_context`: prompt and answer of one request in a hundred.

    `slices`: parts that a bucket may be cut into; 0: it flows freely.
    """

    service: Service
    model: Model
    rate: float
    buckets: tuple[Bucket, ...]
    tail_context: int
    slices: int = 0

    @property
    def over(self) -> int | None:
        return (
            self.service.long_context.over if any(b.long for b in self.buckets) and self.service.long_context else None
        )


def demand_of(service: Service, model: Model) -> Demand:
    traffic = service.traffic or NO_TRAFFIC
    lengths = length_model(traffic.input)
    # A request to embed or rerank holds many texts: its length is not bound by the model's context.
    longest = float(service.context or model.max_context) if service.task == "generate" else inf
    rate = traffic.rate * traffic.peak * traffic.growth
    over = service.long_context.over if service.long_context and service.task == "generate" else None
    buckets: tuple[Bucket, ...]
    if traffic.histogram:
        buckets = tuple(_cells(service, traffic.histogram, rate, over))
        tail = max(b.request.input_len + b.request.output_len for b in buckets)
        return Demand(service, model, rate, buckets, int(min(tail, longest)), traffic.histogram.slices)
    if over is None or over >= longest:
        buckets = (_bucket(service, lengths, "all", rate, 1.0, (0.0, longest)),)
    else:
        part = lengths.part_over(over)
        end = float(service.long_context.max or longest) if service.long_context else longest
        buckets = (
            _bucket(service, lengths, "short", rate * (1 - part), 1 - part, (0.0, float(over))),
            _bucket(service, lengths, "long", rate * part, part, (float(over), max(end, over + 1.0))),
        )
    tail = lengths.quantile_between(99, 0.0, inf) + _answer_tail(traffic)
    return Demand(service, model, rate, buckets, int(min(tail, longest)))


def _cells(service: Service, cells: Histogram, rate: float, over: int | None) -> Iterator[Bucket]:
    """One kind of request for each cell of the histogram that has any."""
    total = sum(map(sum, cells.share))
    hit = service.traffic.shared_prefix if service.traffic else 0.0
    for tokens, row in zip(cells.input, cells.share, strict=True):
        for answer, share in zip(cells.output, row, strict=True):
            if share > 0:
                long = over is not None and tokens > over
                decodes = float(answer) if service.task == "generate" else 0.0
                request = Request(float(tokens), decodes, hit, float(tokens))
                part = share / total
                limits = _limits(service, request, long)
                yield Bucket(f"{tokens} in, {answer} out", rate * part, part, long, request, limits)


def _bucket(
    service: Service,
    lengths: LengthModel | Quantiles,
    name: str,
    rate: float,
    part: float,
    between: tuple[float, float],
) -> Bucket:
    traffic = service.traffic or NO_TRAFFIC
    mean = lengths.mean_between(*between)
    request = Request(
        input_len=max(1.0, mean),
        output_len=float(max(1, traffic.output.mean)) if service.task == "generate" else 0.0,
        prefix_hit=traffic.shared_prefix if service.task == "generate" else 0.0,
        tail_len=lengths.quantile_between(service.slo.percentile, *between),
    )
    return Bucket(name, rate, part, name == "long", request, _limits(service, request, name == "long"))


def _limits(service: Service, request: Request, long: bool) -> Limits:
    """Above the long-context threshold the first token may take longer in proportion to the prompt."""
    ttft = service.slo.ttft or inf
    if long and service.long_context:
        ttft *= max(1.0, max(request.tail_len, request.input_len) / service.long_context.over)
    return Limits(
        ttft_s=ttft,
        tpot_s=service.slo.tpot or inf,
        percentile=service.slo.percentile,
        z=max(0.0, NormalDist().inv_cdf(service.slo.percentile / 100)),
    )


def answer_tail(service: Service) -> int:
    """Tokens of a long answer: room that a context must leave behind the prompt."""
    return int(_answer_tail(service.traffic or NO_TRAFFIC)) if service.task == "generate" else 0


def _answer_tail(traffic: Traffic) -> float:
    return float(traffic.output.p99 or 4 * traffic.output.mean)
