"""What Ctrl-C means to a command that changes the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from llmfleet.cli.start import INTERRUPTED


@contextmanager
def interruptible(next_step: str) -> Iterator[None]:
    """Ctrl-C ends the block with exit code 130 and says what to do next."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted\n  → {next_step}", err=True)
        raise typer.Exit(INTERRUPTED) from None
