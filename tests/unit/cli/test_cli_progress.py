"""Progress: plain lines, the live screen, silence; and that threads do not mix lines."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from llmfleet.cli.live_progress import MOST_NODES, Screen, live_progress
from llmfleet.cli.progress import PlainProgress, duration, progress
from llmfleet.launch.events import Event, Note, PhaseDone, PhaseStarted, StepDone, StepFailed, StepStarted

RUN: tuple[Event, ...] = (
    PhaseStarted("weights", 5, 12),
    StepStarted("a800-0", "copy weights chat"),
    Note("a800-0", "34 %"),
    StepDone("a800-0", "copy weights chat", True),
    StepDone("a800-1", "copy weights chat", False),
    StepFailed("h20-0", "copy weights chat", "disk is full"),
    Note("", "the state could not be copied", "warning"),
    PhaseDone("weights", 1, 12.4),
)


def test_plain_lines() -> None:
    out = io.StringIO()
    with progress(stream=out) as observe:
        for event in RUN:
            observe(event)
    assert out.getvalue().splitlines() == [
        "[5/12] weights",
        "a800-0: copy weights chat …",
        "a800-0: 34 %",
        "a800-0: copy weights chat: done",
        "h20-0: copy weights chat: failed: disk is full",
        "warning: the state could not be copied",
        "weights: 1 done, 12 s",
    ]


def test_dry_run_says_to_do_not_done() -> None:
    out = io.StringIO()
    observe = PlainProgress(out, dry_run=True)
    observe(StepDone("a800-0", "copy weights chat", True))
    observe(PhaseDone("weights", 1, 0.04))
    assert out.getvalue() == "weights: 1 to do, 0.0 s\n"


def test_quiet_is_silent() -> None:
    out = io.StringIO()
    with progress(quiet=True, stream=out) as observe:
        for event in RUN:
            observe(event)
    assert out.getvalue() == ""


def test_threads_do_not_mix_lines() -> None:
    out = io.StringIO()
    observe = PlainProgress(out)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: observe(Note(f"n{n}", "x" * 200)), range(400)))
    assert sorted(out.getvalue().splitlines()) == sorted(f"n{n}: {'x' * 200}" for n in range(400))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (41.6, "42 s"), (59.7, "1 min 0 s"), (190, "3 min 10 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def seen(screen: Screen) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(screen.picture())
    return console.export_text()


def test_screen_shows_phases_and_what_each_node_does() -> None:
    clock = iter([0.0, 3.0]).__next__
    screen = Screen(dry_run=False, clock=clock)
    screen.hear(PhaseDone("connect", 0, 0.3))
    screen.hear(PhaseStarted("weights", 5, 12))
    screen.hear(StepStarted("a800-0", "copy weights chat"))
    assert screen.hear(Note("a800-0", "12 %")) is None
    assert screen.hear(Note("a800-0", "34 %")) is None
    picture = seen(screen)
    assert picture.splitlines()[0].split() == ["✓", "connect", "ok", "0.3", "s"]
    assert "weights" in picture and "phase 5 of 12  3.0 s" in picture
    assert "a800-0  copy weights chat  ·  34 %" in picture
    assert "12 %" not in picture


def test_screen_keeps_failures_and_warnings_on_the_terminal() -> None:
    screen = Screen(dry_run=False)
    screen.hear(PhaseStarted("weights", 5, 12))
    screen.hear(StepStarted("h20-0", "copy [chat]"))
    failed = screen.hear(StepFailed("h20-0", "copy [chat]", "disk is full"))
    assert failed is not None and "h20-0" in failed and "disk is full" in failed and r"\[chat]" in failed
    assert "yellow" in (screen.hear(Note("", "slow", "warning")) or "")
    assert "h20-0" not in seen(screen)


def test_screen_of_a_large_fleet_fits_a_terminal() -> None:
    screen = Screen(dry_run=False)
    screen.hear(PhaseStarted("facts", 2, 12))
    for number in range(200):
        screen.hear(StepStarted(f"n{number}", "read facts"))
    assert len(seen(screen).splitlines()) == 1 + MOST_NODES + 1
    assert f"and {200 - MOST_NODES} more nodes" in seen(screen)


def test_live_screen_takes_events_from_threads() -> None:
    out = io.StringIO()
    with live_progress(out, dry_run=False) as observe, ThreadPoolExecutor(8) as pool:
        observe(PhaseStarted("weights", 1, 1))
        list(pool.map(lambda n: observe(StepFailed(f"n{n}", "copy", "no")), range(100)))
        observe(PhaseDone("weights", 0, 1.0))
    text = out.getvalue()
    assert all(f"n{n}  copy: no" in text for n in range(100))
    assert "✓" in text
