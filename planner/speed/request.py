"""The requests that an instance is to serve, and the limits it serves them under."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, sqrt

# Blocks of a prefix that several running requests share are in the cache once. How many share one at a time is not
# known: between none (each hit is on an idle prefix) and all (one system prompt). Half of the shared part is counted.
HELD_ONCE = 0.5
WIDEST_SIGMA = 1.5  # of ln(tokens): wider traffic is no longer described by its mean


@dataclass(frozen=True, slots=True)
class Request:
    """Mean tokens of one kind of request. `tail_len`: the prompt at the SLO's percentile.

    `prefix_hit`: part of the prompt that the prefix cache already holds. `output_len` 0: no decode (embed, rerank).
    `unequal`: mean square over squared mean of what prompts make others wait; 0: as log-normal lengths with that tail.
    """

    input_len: float
    output_len: float
    prefix_hit: float = 0.0
    tail_len: float = 0.0
    unequal: float = 0.0

    @property
    def context(self) -> float:
        """Mean tokens in the cache while the answer grows."""
        return self.input_len + self.output_len / 2

    @property
    def cached(self) -> float:
        return self.input_len * self.prefix_hit

    @property
    def new(self) -> float:
        return self.input_len - self.cached

    @property
    def private(self) -> float:
        """Prompt tokens in the cache that no other running request shares."""
        return self.input_len - HELD_ONCE * self.cached

    @property
    def held(self) -> float:
        """Tokens of its own in the cache when its answer ends."""
        return self.private + self.output_len

    def unequally(self, z: float) -> float:
        """`z` deviations of the normal distribution up is `tail_len`."""
        ratio = self.tail_len / self.input_len if self.input_len else 1.0
        if self.unequal or ratio <= 1 or z <= 0:
            return self.unequal or 1.0
        root = z * z - 2 * log(ratio)
        sigma = min(WIDEST_SIGMA, z - sqrt(root) if root > 0 else z)
        return exp(sigma * sigma)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds at a percentile; `z` is that percentile of the normal distribution."""

    ttft_s: float = inf
    tpot_s: float = inf
    percentile: float = 95.0
    z: float = 1.645
