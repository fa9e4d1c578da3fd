"""What happens while a command works, on stderr: a live screen on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from llmfleet.cli.printable import printable
from llmfleet.launch.events import (
    Event,
    Note,
    Observer,
    PhaseDone,
    PhaseStarted,
    PlanChanged,
    StepDone,
    StepFailed,
    StepStarted,
    silent,
)

if TYPE_CHECKING:
    from llmfleet.planner.difference import Difference


@contextmanager
def progress(*, quiet: bool = False, dry_run: bool = False, stream: TextIO | None = None) -> Iterator[Observer]:
    """An observer that shows what it hears for as long as the block runs."""
    out = stream or sys.stderr
    if quiet:
        yield silent
    elif out.isatty():
        from llmfleet.cli.live_progress import live_progress

        with live_progress(out, dry_run=dry_run) as observe:
            yield observe
    else:
        yield PlainProgress(out, dry_run=dry_run)


@contextmanager
def looking(*, quiet: bool, doing: str = "asking the nodes …") -> Iterator[Observer]:
    """For commands that change nothing and may take their time, as nodes that are away do: notes as plain lines; on a
    terminal also a sign of life."""
    if quiet or not sys.stderr.isatty():
        yield plain_progress(quiet=quiet)
        return
    from llmfleet.cli.console import SafeConsole

    with SafeConsole(stderr=True).status(doing):
        yield PlainProgress(sys.stderr)  # Rich's while it draws, so that notes stand above


def plain_progress(*, quiet: bool = False) -> Observer:
    """For what takes no time: notes as plain lines, also on a terminal."""
    return silent if quiet else PlainProgress(sys.stderr)


class PlainProgress:
    """One line an event, each naming its node. What needed no doing is not mentioned."""

    def __init__(self, out: TextIO, *, dry_run: bool = False) -> None:
        self._out = out
        self._dry_run = dry_run
        self._mutex = threading.Lock()

    def __call__(self, event: Event) -> None:
        line = plain_line(event, dry_run=self._dry_run)
        if line is not None:
            with self._mutex:
                self._out.write(printable(line) + "\n")
                self._out.flush()


def plain_line(event: Event, *, dry_run: bool) -> str | None:
    match event:
        case PhaseStarted(name, number, of):
            return f"[{number}/{of}] {name}"
        case PhaseDone(name, changed, seconds):
            return f"{name}: {outcome(changed, dry_run=dry_run)}, {duration(seconds)}"
        case StepStarted(node, title):
            return f"{node}: {title} …"
        case StepDone(node, title, True) if not dry_run:
            return f"{node}: {title}: done"
        case StepFailed(node, title, message):
            return f"{node}: {title}: failed: {message}"
        case PlanChanged(found):
            return "\n".join(changes(found))
        case Note(node, text, level):
            return f"{node}: {'warning: ' * (level == 'warning')}{text}".removeprefix(": ")
    return None


def changes(found: Difference) -> list[str]:
    """A line for each kind of change, as `plan --what-if` words it."""
    from llmfleet.cli.render.plan_difference import instance_lines  # heavy, and seldom needed

    lines = [" ".join(filter(None, (mark, what, words))) for (mark, _), what, words in instance_lines(found)]
    shown = [f"  {line}" for line in lines] or ["  all instances stay as they are"]
    return [f"plan {found.before[:6]} is up, plan {found.after[:6]} is put in its place:", *shown]


def outcome(changed: int, *, dry_run: bool) -> str:
    if not changed:
        return "ok"
    return f"{changed} to do" if dry_run else f"{changed} done"


def duration(seconds: float) -> str:
    """Short, as people say it: 0.4 s, 42 s, 3 min 10 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
