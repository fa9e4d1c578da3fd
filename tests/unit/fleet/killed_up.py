"""`up` that is killed, as by a power cut, at the N-th event of a kind: killed_up.py INVENTORY phase|step N."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from llmfleet.cli.workspace import load_fleet
from llmfleet.launch.events import Event, PhaseStarted, StepDone, StepStarted
from llmfleet.launch.up import up


def main(inventory: str, kind: str, number: str) -> None:
    left = int(number)

    def observe(event: Event) -> None:
        nonlocal left
        counts = isinstance(event, PhaseStarted) if kind == "phase" else isinstance(event, (StepStarted, StepDone))
        if isinstance(event, StepDone) and not event.changed:
            return
        left -= counts
        if counts and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    up(load_fleet(Path(inventory), observe, plan_must_match=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
