"""Who gets a set of weights from whom: one node from their origin, the others from nodes that have it.

Every node that is done serves two more, so all of N have it after about log2 N rounds, and the origin is used once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable

SERVES = 2  # nodes that get it from one node at a time
FALLBACKS = 4  # nodes that get it from the origin at a time, once peers did not work for them
TRIES = 2  # peers that a node tries before it turns to the origin


class Fanout:
    """Used by many threads, one a node. Whoever waits here waits for one that works, so nobody waits for ever."""

    def __init__(self, seeds: Iterable[str] = ()) -> None:
        self._changed = threading.Condition()
        self._seeds = list(seeds)
        self._serving: Counter[str] = Counter()
        self._at_origin = 0

    def claim(self, node: str, failed: Collection[str] = ()) -> str | None:
        """The node to get it from; None: from the origin. Waits for a place. `failed`: peers that did not work."""
        with self._changed:
            while True:
                peers = [s for s in self._seeds if s != node and s not in failed]
                if len(failed) >= TRIES or (failed and not peers):
                    if self._at_origin < FALLBACKS:
                        self._at_origin += 1
                        return None
                elif peers:
                    peer = min(peers, key=lambda s: self._serving[s])
                    if self._serving[peer] < SERVES:
                        self._serving[peer] += 1
                        return peer
                elif not self._at_origin:
                    self._at_origin += 1
                    return None
                self._changed.wait()

    def release(self, seed: str | None, *, finished: str = "") -> None:
        """Gives the place back. `finished`: the node that now has it, and serves others."""
        with self._changed:
            if seed is None:
                self._at_origin -= 1
            else:
                self._serving[seed] -= 1
            if finished and finished not in self._seeds:
                self._seeds.append(finished)
            self._changed.notify_all()
