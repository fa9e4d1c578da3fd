"""The live screen of a command at work: finished phases, the running one, and what each node is doing now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from llmfleet.cli.console import SafeConsole
from llmfleet.cli.progress import changes, duration, outcome
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
)

MOST_NODES = 12  # shown at once; a terminal is no longer than that


class Screen:
    """Hears events from several threads; Rich asks for its picture some times a second."""

    def __init__(self, *, dry_run: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._dry_run = dry_run
        self._clock = clock
        self._mutex = threading.Lock()
        self._done: list[tuple[str, str, str]] = []  # phase, what came of it, how long it took
        self._phase: PhaseStarted | None = None
        self._since = 0.0
        self._doing: dict[str, str] = {}  # by node
        self._spinner = Spinner("dots")

    def hear(self, event: Event) -> str | None:
        """Takes the event in; the answer, if any, is a line of Rich markup that must stay on the screen."""
        with self._mutex:
            match event:
                case PhaseStarted():
                    self._phase, self._since, self._doing = event, self._clock(), {}
                case PhaseDone(name, changed, seconds):
                    self._done.append((name, outcome(changed, dry_run=self._dry_run), duration(seconds)))
                    self._phase, self._doing = None, {}
                case StepStarted(node, title):
                    self._doing[node] = title
                case StepDone(node):
                    self._doing.pop(node, None)
                case StepFailed(node, title, message):
                    self._doing.pop(node, None)
                    return f"[bold red]{escape(node)}[/]  {escape(title)}: {escape(message)}"
                case PlanChanged(found):
                    return "\n".join(escape(line) for line in changes(found))
                case Note(node, text, level):
                    if level == "info" and node in self._doing:
                        self._doing[node] = f"{self._doing[node].split('  ·  ')[0]}  ·  {text}"
                        return None
                    style = "yellow" if level == "warning" else "dim"
                    return f"[{style}]{escape(f'{node}  ' if node else '')}{escape(text)}[/]"
            return None

    def picture(self) -> Group:
        with self._mutex:
            phases = Table.grid(padding=(0, 2))
            for name, what, took in self._done:
                phases.add_row(Text("✓", "green"), name, Text(what, "dim"), Text(took, "dim"))
            if self._phase is not None:
                place = f"phase {self._phase.number} of {self._phase.of}"
                elapsed = duration(self._clock() - self._since)
                phases.add_row(self._spinner, Text(self._phase.name, "bold"), Text(place, "dim"), Text(elapsed, "dim"))
            nodes = Table.grid(padding=(0, 2))
            for node, what in list(self._doing.items())[:MOST_NODES]:
                nodes.add_row("  ", Text(node, "bold"), Text(what, overflow="ellipsis", no_wrap=True))
            if len(self._doing) > MOST_NODES:
                nodes.add_row("  ", Text(f"and {len(self._doing) - MOST_NODES} more nodes", "dim"))
            return Group(phases, nodes)


@contextmanager
def live_progress(stream: TextIO, *, dry_run: bool) -> Iterator[Observer]:
    screen = Screen(dry_run=dry_run)
    console = SafeConsole(file=stream, highlight=False)

    def observe(event: Event) -> None:
        line = screen.hear(event)
        if line is not None:
            console.print(line)

    with Live(console=console, get_renderable=screen.picture, refresh_per_second=8, vertical_overflow="ellipsis"):
        yield observe
