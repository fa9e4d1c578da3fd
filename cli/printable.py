"""What may reach a terminal: words out of files, nodes and engines must not steer it."""

from __future__ import annotations

from unicodedata import category


def printable(text: str) -> str:
    """The text with U+FFFD for control characters and for those that turn its direction. Lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def _harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or category(character) == "Zs"
