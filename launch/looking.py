"""Looking at a fleet again and again over connections that stay open. What is away is tried again beside the looks, so
that a dead node slows none of them down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType

from llmfleet.launch.events import silent
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.results import FleetStatus
from llmfleet.launch.session import Session
from llmfleet.launch.status import look

RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Rates:
    """By instance, between the last two looks. Nothing of an instance that was started in between."""

    output_tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    requests_per_s: Mapping[str, float] = field(default_factory=dict)


class Looker:
    """Use as a context manager. `look` never raises for a node that is away."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        self.fleet = fleet
        self._clock = clock
        self._session = Session(fleet, self._store())
        self._before: tuple[float, FleetStatus] | None = None
        self._done = threading.Event()
        self._reconnecting = threading.Thread(target=self._reconnect, daemon=True)

    def __enter__(self) -> Looker:
        self._session.connect(self.fleet.planned_nodes())
        self._reconnecting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._session.close()

    def look(self) -> tuple[FleetStatus, Rates]:
        self._session.store = self._store()  # other commands change it
        now, found = self._clock(), look(self._session)
        for name, error in list(self._session.lost.items()):
            self._session.lose(name, error)  # its connection is no good any more
        rates = rates_between(self._before, (now, found))
        self._before = now, found
        self._session.fleet = replace(self.fleet, observe=silent)  # what was noted once is not said again
        return found, rates

    def _store(self) -> StateStore:
        return StateStore(self.fleet.folder, self.fleet.inventory.cluster)

    def _reconnect(self) -> None:
        while not self._done.wait(RETRY_S):
            away = [n for n in self.fleet.planned_nodes() if n.name not in self._session.transports]
            if away:
                self._session.connect(away)


def rates_between(before: tuple[float, FleetStatus] | None, now: tuple[float, FleetStatus]) -> Rates:
    """Counters that went down belong to an engine, or a router, that was started anew: they say nothing yet."""
    if before is None or now[0] <= before[0]:
        return Rates()
    seconds = now[0] - before[0]
    tokens = {i.id: i.generated_tokens for i in before[1].instances}
    later = {i.id: i.generated_tokens for i in now[1].instances}
    return Rates(
        _risen(tokens, later, seconds), _risen(before[1].router.requests, now[1].router.requests, seconds)
    )


def _risen(old: Mapping[str, int | None], new: Mapping[str, int | None], seconds: float) -> dict[str, float]:
    pairs = {name: (old.get(name), value) for name, value in new.items()}
    return {n: (b - a) / seconds for n, (a, b) in pairs.items() if a is not None and b is not None and b >= a}
