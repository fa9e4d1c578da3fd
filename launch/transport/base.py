"""What the rest of launch knows of a node: run a command, put and get a file, hold a stream open.

Commands are argv tuples; they become one shell string, quoted word by word, in the adapters and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Argv = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command. Output is text, undecodable bytes replaced.

    `exit_code` is 127 when there is no such command, negative when a signal killed it (over SSH
    -1, since paramiko does not say which; or 128 + signal where the login shell reports it).
    """

    argv: Argv
    exit_code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class Stream(Protocol):
    """A command that keeps running while its channel is open; closing the channel gives it end of file on stdin.

    One thread may read lines while another writes. Both raise TransportError when the connection is lost.
    """

    def write(self, text: str) -> None: ...
    def lines(self) -> Iterator[str]:
        """Lines of stdout as they come, without their newline; ends when the command ends."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    """One node. Methods may be called from one thread at a time; connecting happens on first use.

    Errors: HostKeyError, AuthError, DeadlineError or TransportError when the node cannot be reached.
    A command that exits non-zero is not an error here.
    """

    node: str

    def connect(self) -> None: ...
    def run(self, argv: Argv, *, stdin: str | None = None, timeout: float = 30.0) -> Completed: ...
    def stream(self, argv: Argv) -> Stream: ...
    def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        """Writes a file atomically (temporary name, then rename), making its folders (0700)."""
        ...

    def put_file(
        self, source: Path, path: str, *, mode: int = 0o600, progress: Callable[[int], None] | None = None,
        resume: str = "",
    ) -> None:
        """Copies one large local file; `progress` is told bytes so far. `resume` says what it is, as its sha256 does:
        a copy of the same that was cut short is then gone on with; whoever asks for that has to check the result."""
        ...

    def get(self, path: str) -> bytes | None:
        """The file's content; None when there is none."""
        ...

    def home(self) -> str:
        """Absolute home folder of the user on the node: what "~/" in a path stands for."""
        ...

    def close(self) -> None: ...
