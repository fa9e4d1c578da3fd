"""Prompt lengths as a distribution: from the few figures that people know of their traffic, or from quantiles."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, log, sqrt
from statistics import NormalDist

from llmfleet.planner.inventory.asked import Lengths

NORMAL = NormalDist()
# Without p50 or p99: as wide as the prompts of the public Azure conversation trace, whose mean is 1.3 × its median.
DEFAULT_SIGMA = 0.75
WIDEST_SIGMA = 2.5


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Of `mean` tokens; ln(tokens) is normal with `mu` and `sigma`."""

    mean: float
    mu: float
    sigma: float

    def part_over(self, tokens: float) -> float:
        """Part of the requests that are longer."""
        return 1 - NORMAL.cdf((log(tokens) - self.mu) / self.sigma)

    def mean_between(self, low: float, high: float) -> float:
        """Mean length of the requests longer than `low` and no longer than `high`."""
        part = self._cdf(high) - self._cdf(low)
        if part < 1e-9:
            return low if low > 0 else min(high, self.mean)
        return self.mean * (self._cdf(high, self.sigma) - self._cdf(low, self.sigma)) / part

    def quantile_between(self, percentile: float, low: float, high: float) -> float:
        """The length at a percentile among those requests."""
        start, end = self._cdf(low), self._cdf(high)
        place = min(max(start + percentile / 100 * (end - start), 1e-9), 1 - 1e-9)
        return min(max(exp(self.mu + self.sigma * NORMAL.inv_cdf(place)), low), high)

    def _cdf(self, tokens: float, shift: float = 0.0) -> float:
        """Shifted by sigma it is the part of all tokens, rather than of requests, up to that length."""
        if tokens <= 0:
            return 0.0
        return 1.0 if tokens == inf else NORMAL.cdf((log(tokens) - self.mu) / self.sigma - shift)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Lengths at even parts of the requests, shortest first; straight lines between them."""

    lengths: tuple[float, ...]

    @property
    def mean(self) -> float:
        return self.mean_between(0.0, inf)

    @property
    def mu(self) -> float:
        """With `sigma`, the log-normal that is nearest: of the same median and mean."""
        return log(max(1.0, self.quantile_between(50, 0.0, inf)))

    @property
    def sigma(self) -> float:
        return min(WIDEST_SIGMA, sqrt(max(0.0025, 2 * (log(max(1.0, self.mean)) - self.mu))))

    def part_over(self, tokens: float) -> float:
        return 1 - self._cdf(tokens)

    def mean_between(self, low: float, high: float) -> float:
        """Of the requests longer than `low` and no longer than `high`."""
        total = part = 0.0
        for start, end in pairwise(self.lengths):
            a, b = max(start, low), min(end, high)
            if start == end:
                weight, middle = float(low < start <= high), start
            else:
                weight, middle = max(0.0, b - a) / (end - start), (a + b) / 2
            part += weight
            total += weight * middle
        return total / part if part else min(max(low, self.lengths[0]), high)

    def quantile_between(self, percentile: float, low: float, high: float) -> float:
        start, end = self._cdf(low), self._cdf(high)
        place = (start + percentile / 100 * (end - start)) * (len(self.lengths) - 1)
        step = min(int(place), len(self.lengths) - 2)
        before, after = self.lengths[step], self.lengths[step + 1]
        return min(max(before + (place - step) * (after - before), low), high)

    def _cdf(self, tokens: float) -> float:
        step = bisect_right(self.lengths, tokens)
        if step in (0, len(self.lengths)):
            return float(step > 0)
        before, after = self.lengths[step - 1], self.lengths[step]
        return (step - 1 + (tokens - before) / (after - before)) / (len(self.lengths) - 1)


def length_model(lengths: Lengths) -> LengthModel | Quantiles:
    """The furthest percentile decides the spread; all are tails of the same distribution as the mean."""
    if len(lengths.quantiles) > 1:
        return Quantiles(tuple(map(float, lengths.quantiles)))
    mean = max(1.0, float(lengths.mean))
    sigma = DEFAULT_SIGMA
    tails = ((lengths.p99, 0.99), (lengths.p95, 0.95), (lengths.p90, 0.9))
    far, part = next(((tokens, part) for tokens, part in tails if tokens), (None, 0.0))
    if far and far > mean:
        sigma = _sigma_of_tail(far / mean, NORMAL.inv_cdf(part))
    elif lengths.p50 and lengths.p50 < mean:
        sigma = min(WIDEST_SIGMA, sqrt(2 * log(mean / max(1, lengths.p50))))
    elif far or lengths.p50:
        sigma = 0.05  # a tail no longer than the mean: all requests are alike
    return LengthModel(mean, log(mean) - sigma * sigma / 2, sigma)


def _sigma_of_tail(ratio: float, z: float) -> float:
    """tail/mean = exp(z·sigma - sigma²/2): the smaller root, or the steepest tail that a log-normal has."""
    root = z * z - 2 * log(ratio)
    return min(WIDEST_SIGMA, z - sqrt(root) if root > 0 else z)
