"""An engine that dies is shown by its cause, not by the traceback that follows it."""

from __future__ import annotations

from llmfleet.launch.phases.instances import LAST_LINES, last_words

CAUSE = "(Worker pid=7) ERROR ValueError: Available memory on node 0 (15.76/21.34 GiB) is less than desired"
ECHO = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"


def test_the_cause_comes_before_the_last_lines() -> None:
    log = ["INFO starting", CAUSE, *["  File x, line 1"] * 80, ECHO]
    assert last_words(log) == [CAUSE, *["  File x, line 1"] * (LAST_LINES - 1), ECHO]


def test_a_cause_that_is_printed_three_times_is_shown_once() -> None:
    log = [CAUSE, "x", CAUSE, "y", CAUSE, *["end"] * LAST_LINES]
    assert last_words(log) == [CAUSE, *["end"] * LAST_LINES]


def test_a_short_log_is_shown_as_it_is() -> None:
    assert last_words(["one", "two"]) == ["one", "two"]
    assert last_words([]) == []


def test_endless_lines_are_cut() -> None:
    assert len(last_words(["x" * 10_000])[0]) == 300
