"""Argv tuples at the boundary: checked, encoded, and shortened for messages."""

from __future__ import annotations

import shlex

from llmfleet.launch.transport.base import Argv
from llmfleet.planner.errors import InputError


def checked(argv: Argv) -> Argv:
    """The same argv; InputError when no system could start it."""
    if not argv or not argv[0]:
        raise InputError("an empty command cannot be run")
    if any("\0" in word for word in argv):
        raise InputError(f"a command with a NUL character cannot be run: {shown(argv)}")
    try:
        encoded(shlex.join(argv))
    except UnicodeEncodeError as error:
        raise InputError(f"a command with a broken character cannot be run: {shown(argv)}") from error
    return argv


def encoded(text: str) -> bytes:
    """UTF-8; names of files that are not keep the bytes that Python smuggles through strings."""
    return text.encode("utf-8", "surrogateescape")


def shown(argv: Argv, width: int = 100) -> str:
    """For messages: one printable line, cut at `width` characters."""
    text = shlex.join(argv)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"
