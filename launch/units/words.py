"""How text stands in a unit file: man systemd.syntax, systemd.unit (specifiers), systemd.service (command lines)."""

from __future__ import annotations

from collections.abc import Sequence

from llmfleet.planner.errors import InputError


def escaped(text: str) -> str:
    """Specifiers begin with a percent sign."""
    if any(ord(c) < 32 for c in text):
        raise InputError(f"{text!r} cannot stand in a unit file", hint="Use a path without it.")
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """One of several words, as in a list of paths. A dollar sign means nothing there."""
    body = escaped(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{body}"' if not body or set(body) & set(" '\"\\;") else body


def command(argv: Sequence[str]) -> str:
    """A command line. Of its program systemd takes dollar signs as they are where it looks for the file, and for
    variables where it starts it: there is no way to write one."""
    program, *words = argv
    if "$" in program:
        raise InputError(f"{program} cannot be started by systemd: it has a `$`", hint="Use a path without it.")
    return " ".join([quoted(program), *(quoted(word).replace("$", "$$") for word in words)])
