"""A Transport without a machine, for tests and for `transport: fake` in an inventory.

It answers as told, remembers what it was asked, and keeps files in memory. What it was not told, it does not know:
the command is not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmfleet.launch.transport.argv import checked, shown
from llmfleet.launch.transport.base import Argv, Completed
from llmfleet.planner.errors import FleetError, InputError, TransportError

Pattern = Argv | str | re.Pattern[str]
Handler = Callable[[Argv, str | None], Completed]


@dataclass(frozen=True, slots=True)
class _Reply:
    pattern: Pattern
    handler: Handler

    def matches(self, argv: Argv) -> bool:
        """A tuple is the beginning of the argv; anything else is a regular expression for the shell-quoted line."""
        if isinstance(self.pattern, tuple):
            return argv[: len(self.pattern)] == self.pattern
        return re.search(self.pattern, shown(argv, 1_000_000)) is not None


class FakeTransport:
    """See Transport. `error`, when given, is raised by everything that needs a connection."""

    def __init__(self, node: str, *, home: str = "/home/fake", error: FleetError | None = None) -> None:
        self.node = node
        self.error = error
        self.commands: list[Argv] = []
        self.inputs: list[str | None] = []  # what each of the commands got on stdin
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.closed = False
        self._home = home
        self._replies: list[_Reply] = []

    def reply(
        self,
        pattern: Pattern,
        stdout: str = "",
        stderr: str = "",
        exit_code: int = 0,
        *,
        error: FleetError | None = None,
    ) -> FakeTransport:
        """What matching commands answer, or the error they raise. Of several that match, the latest told counts."""

        def answer(argv: Argv, _stdin: str | None) -> Completed:
            if error is not None:
                raise error
            return Completed(argv, exit_code, stdout, stderr)

        return self.handle(pattern, answer)

    def handle(self, pattern: Pattern, handler: Handler) -> FakeTransport:
        """Matching commands are answered by `handler(argv, stdin)`."""
        self._replies.insert(0, _Reply(pattern, handler))
        return self

    def connect(self) -> None:
        if self.error is not None:
            raise self.error
        self.closed = False

    def run(self, argv: Argv, *, stdin: str | None = None, timeout: float = 30.0) -> Completed:  # noqa: ARG002
        self.connect()
        self.commands.append(checked(argv))
        self.inputs.append(stdin)
        for reply in self._replies:
            if reply.matches(argv):
                return reply.handler(argv, stdin)
        return Completed(argv, 127, "", f"{argv[0]}: command not found\n")

    def stream(self, argv: Argv) -> FakeStream:
        """Its lines are what the command answers."""
        return FakeStream(self.run(argv))

    def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        self.connect()
        self.files[self._expanded(path)] = data
        self.modes[self._expanded(path)] = mode

    def put_file(
        self, source: Path, path: str, *, mode: int = 0o600, progress: Callable[[int], None] | None = None,
        resume: str = "",  # noqa: ARG002  nothing is ever cut short here
    ) -> None:
        try:
            data = source.read_bytes()
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}") from error
        self.put(data, path, mode=mode)
        if progress:
            progress(len(data))

    def get(self, path: str) -> bytes | None:
        self.connect()
        return self.files.get(self._expanded(path))

    def home(self) -> str:
        self.connect()
        return self._home

    def close(self) -> None:
        self.closed = True

    def _expanded(self, path: str) -> str:
        return self._home + path[1:] if path == "~" or path.startswith("~/") else path


class FakeStream:
    """See Stream. `written` keeps what was sent to the command."""

    def __init__(self, completed: Completed) -> None:
        self.written = ""
        self.closed = False
        self._completed = completed

    def write(self, text: str) -> None:
        if self.closed:
            raise TransportError(f"`{shown(self._completed.argv)}` is no longer connected")
        self.written += text

    def lines(self) -> Iterator[str]:
        yield from self._completed.stdout.splitlines()

    def close(self) -> None:
        self.closed = True
