"""What may reach a terminal: words out of files, nodes and engines must not steer it."""

from __future__ import annotations

import os
from unicodedata import category


def printable(text: str) -> str:
    """The text with U+FFFD for control characters and for those that turn its direction. Lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def colours() -> bool | None:
    """For `typer.secho(color=…)`: none where nobody wants or can show them, as Rich has it; else as the stream is."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown") else None


def _harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or category(character) == "Zs"
