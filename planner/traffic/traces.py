"""Traffic traces as others publish them: when requests came, how long prompts and answers were, what prompts share.

Two layouts are read, told apart by the first line:

    TIMESTAMP,ContextTokens,GeneratedTokens          Azure LLM inference traces (CSV; a time of day, or seconds)
    {"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]}      Mooncake traces (JSON lines)

Equal hash ids are equal blocks of 512 tokens behind equal beginnings.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmfleet.planner.errors import InputError

BLOCK = 512  # tokens that one hash id stands for
LAYOUTS = "TIMESTAMP,ContextTokens,GeneratedTokens (Azure) or JSON lines with timestamp, input_length (Mooncake)"


@dataclass(frozen=True, slots=True)
class Traced:
    """One request: seconds since the first one, tokens of prompt and answer, ids of the prompt's blocks if known."""

    at: float
    prompt: int
    answer: int
    blocks: tuple[int, ...] = ()


def read_trace(text: str, name: str) -> tuple[Traced, ...]:
    """In the order of arrival. Raises InputError with the line that cannot be read."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    rows = [] if not first else list(_mooncake(lines, name) if first.lstrip().startswith("{") else _azure(lines, name))
    if not rows:
        raise InputError(f"{name} holds no request", hint=f"Expected: {LAYOUTS}.")
    rows.sort(key=lambda row: row.at)
    start = rows[0].at
    return tuple(Traced(row.at - start, row.prompt, row.answer, row.blocks) for row in rows)


def _azure(lines: Sequence[str], name: str) -> Iterator[Traced]:
    reader = csv.reader(lines)
    header = [column.strip().lower() for column in next(reader, [])]
    wanted = ("timestamp", "contexttokens", "generatedtokens")
    if any(column not in header for column in wanted):
        raise InputError(f"{name}:1: columns {', '.join(header)} are no known trace", hint=f"Expected: {LAYOUTS}.")
    at, prompt, answer = (header.index(column) for column in wanted)
    for number, row in enumerate(reader, 2):
        if row:
            try:
                yield Traced(_seconds(row[at]), _tokens(row[prompt]), _tokens(row[answer]))
            except (ValueError, OverflowError, IndexError):
                raise _unreadable(name, number, ",".join(row)) from None


def _mooncake(lines: Sequence[str], name: str) -> Iterator[Traced]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            blocks = tuple(int(block) for block in row.get("hash_ids", ()))
            at = _bounded(float(row["timestamp"]) / 1000)
            yield Traced(at, _tokens(row["input_length"]), _tokens(row["output_length"]), blocks)
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
            raise _unreadable(name, number, line) from None


def _tokens(value: Any) -> int:
    """A request without an answer still gives its first token. Raises ValueError."""
    count = int(value)
    if count < 0 or count > 100_000_000:
        raise ValueError(value)
    return max(1, count)


def _seconds(text: str) -> float:
    """Seconds, or a time stamp with up to seven decimals."""
    try:
        seconds = float(text)
    except ValueError:
        whole, _, rest = text.strip().partition(".")
        parts = rest[:7].rstrip("Zz")
        seconds = datetime.fromisoformat(whole).timestamp() + (float(f"0.{parts}") if parts.isdigit() else 0.0)
    return _bounded(seconds)


def _bounded(seconds: float) -> float:
    """Raises ValueError for what is no time, not a number among it."""
    if not 0 <= seconds < 1e12:
        raise ValueError(seconds)
    return seconds


def _unreadable(name: str, number: int, line: str) -> InputError:
    return InputError(f"{name}:{number}: {line[:80]!r} is no request of a trace", hint=f"Expected: {LAYOUTS}.")
