"""Rich's way to stdout."""

from __future__ import annotations

from rich.console import Console


class PipedConsole(Console):
    """One whose reader may go away, as `head` does: the command line decides what that means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
