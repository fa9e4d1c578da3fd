"""One line for the login shell of a node, and the command's own output out of what comes back.

Start-up files of a shell may print, with or without a newline, on stdout or stderr. So the line says a word of its own
on both before it becomes the command: what comes before that word is the shell's. `exec` leaves it no last word.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable, Iterator

from llmfleet.launch.transport.argv import checked, encoded, shown
from llmfleet.launch.transport.base import Argv
from llmfleet.launch.transport.sudo import Sudo
from llmfleet.planner.errors import TransportError

SAID = 200  # characters of what a shell said instead, for messages


class Line:
    """A command, as a login shell is told it. The shell must be a POSIX one: it splits the line into words again."""

    def __init__(self, argv: Argv, sudo: Sudo | None = None) -> None:
        """InputError where no system could start the command."""
        self.argv, self._sudo = checked(argv), sudo
        self._mark = f"llmfleet:{secrets.token_hex(8)}"

    @property
    def text(self) -> bytes:
        say = f"printf '%s\\n' {self._mark}; printf '%s\\n' {self._mark} >&2"
        if self._sudo is not None:
            return encoded(self._sudo.wrapped(say, self.argv, self._mark))
        return encoded(f"{say}; exec {shlex.join(self.argv)}")

    @property
    def preface(self) -> bytes:
        """What goes to stdin before the command's own."""
        return self._sudo.preface(self._mark) if self._sudo else b""

    def begins(self, output: bytes) -> int | None:
        """Where the command's own output begins; None where it has not been started yet."""
        mark = self._mark.encode() + b"\n"
        found = output.find(mark)
        return None if found < 0 else found + len(mark)

    def own(self, output: bytes) -> bytes | None:
        """Output without what the shell said before; None where there is nothing else."""
        begin = self.begins(output)
        return None if begin is None else output[begin:]

    def lines(self, chunks: Iterable[bytes]) -> Iterator[str]:
        """The command's own lines as they come, without their newline."""
        rest, begun = b"", False
        for chunk in chunks:
            rest += chunk
            if not begun:
                begin = self.begins(rest)
                if begin is None:
                    continue
                rest, begun = rest[begin:], True
            *whole, rest = rest.split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
        if rest and begun:
            yield rest.decode("utf-8", "replace")

    def refused(self, node: str, stdout: bytes, stderr: bytes) -> TransportError:
        """The login shell, or sudo, ended without having run the command."""
        said = (stdout + b" " + stderr).decode("utf-8", "replace").split()
        words = "".join(c if c.isprintable() else "?" for c in " ".join(said))[:SAID]
        if self._sudo is not None:
            return self._sudo.refused(words)
        return TransportError(
            f"its login shell did not run `{shown(self.argv)}`{f', it said: {words}' if words else ''}",
            hint="The user there needs a POSIX shell (sh, bash, zsh) that takes commands; `getent passwd` shows it.",
            node=node,
        )
