"""A mistake found in the values of the file, before it has a line and a column."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice

from llmfleet.planner.inventory.source import Loc


@dataclass(frozen=True, slots=True)
class Finding:
    """`first` is where the same thing stands for the first time. `at_key`: the mistake is in the key, not its value."""

    loc: Loc
    message: str
    hint: str = ""
    at_key: bool = False
    first: Loc | None = None


def path(loc: Loc) -> str:
    """As a person writes it: nodes[2].gpus"""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:200])


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the closest spellings among the first few hundred, or nothing."""
    close = get_close_matches(word[:100].lower(), islice(known, 300), n=3, cutoff=0.6)
    return f"Nearest: {', '.join(close)}." if close else ""


def repeats(items: Iterable[Hashable]) -> Iterator[int]:
    """Positions of the items that stood there before."""
    seen: set[Hashable] = set()
    for position, item in enumerate(items):
        if item in seen:
            yield position
        seen.add(item)
