"""The same work on many nodes, side by side: every node gets its chance, then all failures are told at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from llmfleet.planner.errors import FleetError, NodesError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

LIMIT = 64
LEAVE_WITHIN_S = 5.0  # how long work that already runs may finish after Ctrl-C


@dataclass(frozen=True, slots=True)
class Outcome(Generic[I, R]):
    """What became of one item: a value, or the error that stopped it."""

    item: I
    value: R | None = None
    error: FleetError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def on_each(items: Sequence[I], work: Callable[[I], R], *, limit: int = LIMIT) -> list[Outcome[I, R]]:
    """Calls `work` for every item in at most `limit` threads; the outcomes stand in the items' order.

    A FleetError belongs to its item and stops no other. Any other exception is a bug: the rest still runs, then it is
    raised. Ctrl-C hands out no more items, lets running work finish for a few seconds, and is raised.
    """
    todo = _Todo(items, work)
    threads = [threading.Thread(target=todo.work_off, daemon=True) for _ in range(min(limit, len(items)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        todo.stop()
        todo.idle.wait(LEAVE_WITHIN_S)
        raise
    if todo.bug is not None:
        raise todo.bug
    return [todo.outcomes[n] for n in range(len(items))]


def raise_failures(doing: str, outcomes: Sequence[Outcome[I, R]]) -> None:
    """NodesError with every error among the outcomes; nothing when there is none."""
    errors = [o.error for o in outcomes if o.error is not None]
    if errors:
        raise NodesError(doing, errors)


class _Todo(Generic[I, R]):
    """Items that threads take one by one, and what came of them."""

    def __init__(self, items: Sequence[I], work: Callable[[I], R]) -> None:
        self.outcomes: dict[int, Outcome[I, R]] = {}
        self.bug: BaseException | None = None
        self.idle = threading.Event()
        self._work = work
        self._items: Iterator[tuple[int, I]] = iter(enumerate(items))
        self._mutex = threading.Lock()
        self._running = 0

    def work_off(self) -> None:
        while (taken := self._take()) is not None:
            number, item = taken
            try:
                self.outcomes[number] = self._outcome(item)
            except BaseException as error:  # raised again in the caller's thread
                self.bug = self.bug or error
            finally:
                self._put_down()

    def stop(self) -> None:
        with self._mutex:
            self._items = iter(())
            if self._running == 0:
                self.idle.set()

    def _outcome(self, item: I) -> Outcome[I, R]:
        try:
            return Outcome(item, value=self._work(item))
        except FleetError as error:
            return Outcome(item, error=error)

    def _take(self) -> tuple[int, I] | None:
        with self._mutex:
            taken = next(self._items, None)
            self._running += taken is not None
            return taken

    def _put_down(self) -> None:
        with self._mutex:
            self._running -= 1
            if self._running == 0:
                self.idle.set()
