"""One run at a time changes a fleet: a lock beside the inventory, and one on the head node for other people's machines.

Both are held by living processes and by nothing else. The kernel frees the first with its process; the second is held
on the head by hold_lock.py, which lets go when it hears nothing of us. So a killed run blocks nobody for long, and one
that lives and reaches the head is never overlooked.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from llmfleet.launch.transport.base import Stream, Transport
from llmfleet.planner.errors import CommandError, DeadlineError, FleetError, LockedError, StateError

HOLD_LOCK = Path(__file__).parents[1] / "remote" / "hold_lock.py"
BEAT_S = 5.0
LOST_AFTER_S = 20.0  # without an answer from the head; less than RELEASE_AFTER_S, so we stop before it lets go
RELEASE_AFTER_S = 30.0  # without a sign of us, the head's lock is free
ANSWER_WITHIN_S = 30.0
LET_GO_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Holder:
    user: str
    host: str
    pid: int
    command: str
    since: str  # ISO 8601, local time with offset

    @classmethod
    def me(cls, command: str) -> Holder:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(getpass.getuser(), socket.gethostname(), os.getpid(), command, now)

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """None where the text is no holder: written by something else, or not yet."""
        try:
            body = json.loads(text)
            return cls(*(kind(body[key]) for key, kind in _FIELDS.items()))
        except (ValueError, KeyError, TypeError):
            return None

    def json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"`llmfleet {self.command}` of {self.user} on {self.host} (process {self.pid}, since {self.since})"


_FIELDS = {"user": str, "host": str, "pid": int, "command": str, "since": str}


@contextmanager
def fleet_lock(
    folder: Path, *, command: str, head: Transport | None = None, head_dir: str = "~/.llmfleet", python: str = "python3"
) -> Iterator[FleetLock]:
    """Holds the lock in `folder`, and the one on the head if it is given (or later, by `hold_head`).

    LockedError names who holds it. StateError or CommandError when the lock cannot be taken for another reason.
    """
    lock = FleetLock(folder, command)
    try:
        lock.hold_here()
        if head is not None:
            lock.hold_head(head, head_dir, python)
        yield lock
    finally:
        lock.release()


class FleetLock:
    def __init__(self, folder: Path, command: str) -> None:
        self.holder = Holder.me(command)
        self._path = folder / "lock"
        self._fd: int | None = None
        self._head: HeadLock | None = None

    @property
    def lost(self) -> bool:
        """Whether the head may have given the lock to somebody else."""
        return self._head is not None and self._head.lost

    def check(self) -> None:
        """StateError when the lock was lost: from then on nothing may be changed."""
        if self._head is not None and self._head.lost:
            raise StateError(
                f"the lock on the head node was lost{self._head.why}",
                hint="Nothing more was changed, since another run may have begun. Run the command again: it goes on.",
                node=self._head.node,
            )

    def hold_here(self) -> None:
        try:
            self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._held_here() from error
        except OSError as error:
            hint = "Lock, state and plan lie beside the inventory: copy it into a folder that you may write to."
            raise StateError(f"{self._path} cannot be locked: {error.strerror}", hint=hint) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, self.holder.json().encode(), 0)

    def hold_head(self, head: Transport, directory: str, python: str) -> None:
        """`directory` is the folder on the head that all who run this fleet agree on. Held already: nothing to do."""
        if self._head is None:
            self._head = HeadLock(head, directory, python, self.holder)

    def release(self) -> None:
        if self._head is not None:
            self._head.release()
            self._head = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _held_here(self) -> LockedError:
        """The holder writes who it is just after it has the lock, so a moment may pass."""
        for _ in range(50):
            holder = Holder.parse(self._path.read_text("utf-8", "replace"))
            if holder is not None:
                end = f"kill {holder.pid}" if holder.host == self.holder.host else f"kill {holder.pid} on {holder.host}"
                hint = f"Wait for it, or end it ({end}): the lock goes with the process."
                return LockedError(f"{holder} works on this fleet", hint=hint)
            time.sleep(0.02)
        return LockedError(f"another run works on this fleet: it holds {self._path}", hint=f"fuser -v {self._path}")


class HeadLock:
    """The lock on the head node, kept alive by two daemon threads: one says that we live, one listens."""

    def __init__(self, head: Transport, directory: str, python: str, holder: Holder) -> None:
        self.node = head.node
        self.why = ""
        self._ended = False
        self._heard = time.monotonic()
        self._done = threading.Event()
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stream = _hold(head, directory, python, holder)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self._take()
        except BaseException:
            self.release()
            raise
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def lost(self) -> bool:
        return self._ended or time.monotonic() - self._heard > LOST_AFTER_S

    def release(self) -> None:
        """Waits for the script to have let go, so that the next command of a shell line finds the lock free."""
        self._done.set()
        with suppress(FleetError):
            self._stream.write("bye\n")
            self._listener.join(LET_GO_WITHIN_S)
        self._stream.close()

    def _take(self) -> None:
        """Waits for the script's answer; what a chatty shell writes before it is passed over."""
        last = "it ended without an answer"
        while (answer := self._next_answer()) is not None:
            if answer == "held":
                return
            if answer.startswith("{"):
                raise self._held_there(Holder.parse(answer))
            last = answer or last
        hint = "The lock needs Python 3.6 or newer and a writable folder there: see `runtime: python` and `dir`."
        raise CommandError(f"the lock could not be taken: {last}{self.why}", hint=hint, node=self.node)

    def _next_answer(self) -> str | None:
        try:
            return self._answers.get(timeout=ANSWER_WITHIN_S)
        except queue.Empty:
            what = f"it did not answer the request for the lock within {ANSWER_WITHIN_S:g} s"
            raise DeadlineError(what, node=self.node) from None

    def _held_there(self, holder: Holder | None) -> LockedError:
        hint = f"Wait for it, or end that process. If its machine is gone, the lock is free in {RELEASE_AFTER_S:g} s."
        return LockedError(f"{holder or 'another run'} works on this fleet", hint=hint, node=self.node)

    def _listen(self) -> None:
        try:
            for line in self._stream.lines():
                self._heard = time.monotonic()
                self._answers.put(line)
        except FleetError as error:
            self.why = f": {error.message}"
        self._ended = True
        self._answers.put(None)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                self._stream.write("alive\n")
            except FleetError as error:
                self.why = f": {error.message}"
                self._ended = True
                return


def _hold(head: Transport, directory: str, python: str, holder: Holder) -> Stream:
    """The script goes along as an argument: nothing is written to the head before the lock is held."""
    script = HOLD_LOCK.read_text("utf-8")
    words = (python, "-c", script, directory, f"{RELEASE_AFTER_S:g}", holder.json())
    return head.stream(("sh", "-c", 'exec "$@" 2>&1', "sh", *words))
