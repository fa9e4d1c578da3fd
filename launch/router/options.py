"""What of the router's behaviour can be set. The defaults are those that docs/router.md gives measurements for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    # A member may run this much of its weight's part of all requests before others take over. Lower is more even and
    # keeps fewer prefixes where they are cached; 160 is where both come out right at Zipf 1.0, see docs/benchmarks.md.
    balance_percent: int = 160
    low_percent: int = 50  # of a pool's places that requests of low priority may hold
    body_limit_bytes: int = 32 << 20  # larger bodies get 413
    health_interval_s: float = 1.0
    health_timeout_s: float = 1.25
    health_failures: int = 2  # in a row, and a member gets nothing more
    idle_timeout_s: float = 600.0  # no byte in either direction for so long ends a request
    several: frozenset[str] = frozenset()  # instances that stand for many: what breaks off says little of them


DEFAULTS = Options()
