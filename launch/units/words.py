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
    """A command line. In the name of a program systemd takes no quotes and backslashes; and dollar signs as they are
    where it looks for the file, but for variables where it starts it."""
    program, *words = argv
    if bad := set(program) & set("$\"'\\"):
        what = f"systemd cannot start {program}: {' '.join(sorted(bad))} cannot be in the name of a program"
        raise InputError(what, hint="Use a path without it.")
    return " ".join([quoted(program), *(quoted(word).replace("$", "$$") for word in words)])
