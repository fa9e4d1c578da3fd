"""The same work on many nodes: bounded, in order, and no failure hides another."""

from __future__ import annotations

import _thread
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfleet.launch.pool import Outcome, on_each, raise_failures
from llmfleet.planner.errors import AuthError, CommandError, LockedError, NodesError


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(), max_size=60), st.integers(1, 9))
def test_every_item_has_its_outcome_in_order(items: list[int], limit: int) -> None:
    def work(item: int) -> int:
        if item % 3 == 0:
            raise CommandError("no", node=str(item))
        return item * 2

    outcomes = on_each(items, work, limit=limit)
    assert [o.item for o in outcomes] == items
    assert [o.value for o in outcomes] == [None if i % 3 == 0 else i * 2 for i in items]
    assert [o.ok for o in outcomes] == [i % 3 != 0 for i in items]


def test_never_more_than_the_limit_at_once() -> None:
    mutex, running, most = threading.Lock(), 0, 0
    gate = threading.Barrier(4)  # passes only if four run at the same time

    def work(_item: int) -> None:
        nonlocal running, most
        with mutex:
            running += 1
            most = max(most, running)
        gate.wait(20)
        with mutex:
            running -= 1

    on_each(range(16), work, limit=4)
    assert most == 4


def test_all_failures_are_told_and_the_worst_gives_the_exit_code() -> None:
    errors = {
        1: CommandError("disk full", node="a"),
        2: LockedError("held", node="b"),
        3: AuthError("refused", node="c"),
    }

    def work(item: int) -> None:
        if item in errors:
            raise errors[item]

    with pytest.raises(NodesError) as failure:
        raise_failures("weights", on_each(range(5), work))
    assert str(failure.value) == "weights failed on 3 nodes:\na: disk full\nb: held\nc: refused"
    assert failure.value.exit_code == 4


def test_no_failure_raises_nothing() -> None:
    raise_failures("weights", [Outcome("a", value=1)])
    raise_failures("weights", on_each([], str))


def test_a_bug_is_raised_as_it_is_after_the_others_ran() -> None:
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        if item == 0:
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        on_each(range(10), work, limit=2)
    assert sorted(seen) == list(range(10))


def test_ctrl_c_hands_out_no_more_and_lets_running_work_end() -> None:
    started, finished = [], []

    def work(item: int) -> None:
        started.append(item)
        if item == 0:
            _thread.interrupt_main()
        time.sleep(0.2)
        finished.append(item)

    with pytest.raises(KeyboardInterrupt):
        on_each(range(1000), work, limit=2)
    assert len(started) < 10
    assert sorted(finished) == sorted(started)


def test_ctrl_c_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmfleet.launch.pool.LEAVE_WITHIN_S", 0.1)
    release = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            _thread.interrupt_main()
        release.wait(30)

    with pytest.raises(KeyboardInterrupt):
        on_each(range(3), work, limit=2)
    release.set()
