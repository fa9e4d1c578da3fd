"""Waiting until engines that get no new requests have finished those they have."""

from __future__ import annotations

import time
from collections.abc import Iterable

from llmfleet.launch.events import StepDone
from llmfleet.launch.nodes.engine_load import in_flight
from llmfleet.launch.session import Session
from llmfleet.planner.errors import HealthError

SETTLE_S = 1.0  # the router reads its endpoints within tens of milliseconds of the rename
POLL_S = 0.5
QUIET_POLLS = 2
NOTE_EVERY_S = 10.0


def wait_idle(
    session: Session, engines: Iterable[tuple[str, str]], *, timeout_s: float, hint: str, force: bool = False
) -> None:
    """`engines`: by node and name. Returns once no request is in flight at the router or in them, seen twice.

    Raises HealthError with the hint when they still run after `timeout_s`; with `force`, returns and says how many.
    """
    engines = tuple(engines)
    time.sleep(SETTLE_S)
    begun = told = time.monotonic()
    quiet = 0
    while quiet < QUIET_POLLS:
        busy = {name: count for name, count in in_flight(session, engines).items() if count}
        quiet = 0 if busy else quiet + 1
        waited = time.monotonic() - begun
        if busy and waited > timeout_s:
            if force:
                session.note(f"cutting off {sum(busy.values())} requests after {waited:.0f} s", level="warning")
                break
            raise HealthError(
                f"{sum(busy.values())} requests are still running after {waited:.0f} s: "
                + ", ".join(f"{name} {count}" for name, count in sorted(busy.items())),
                hint=hint,
            )
        if busy and time.monotonic() - told >= NOTE_EVERY_S:
            told = time.monotonic()
            session.note(f"{sum(busy.values())} requests still running ({waited:.0f} s)")
        time.sleep(POLL_S)
    for node, name in engines:
        session.fleet.observe(StepDone(node, f"{name} is idle", changed=False))
