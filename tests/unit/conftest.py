"""For all unit tests: hypothesis never judges by the clock, and finds the same cases in every run; nothing compiles."""

from __future__ import annotations

import os
import signal

from hypothesis import settings


def end_well(*_: object) -> None:
    """SIGTERM as Ctrl-C: fixtures take down what they started. A second one does not cut that short."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which what teardown starts would inherit
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, end_well)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background had it ignored
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # the simulation as plain Python: compiling takes ten seconds

settings.register_profile("llmfleet", deadline=None, derandomize=True)
settings.load_profile("llmfleet")
