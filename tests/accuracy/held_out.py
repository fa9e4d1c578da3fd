"""Start-ups that came after the model was made: how far off it was untouched, and what it says now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from llmfleet.planner.catalog import catalog
from tests.accuracy.rows import Row, read

TITLE = f"{'part':<50} {'untouched':>12} {'now':>12}"
Figures = Mapping[str, float | bool]


def table(path: Path) -> list[str]:
    rows = list(read(path))
    before: list[Figures] = [row.facts["untouched"] for row in rows]
    now = [figures(row) for row in rows]
    alone = [i for i, row in enumerate(rows) if row.deciding_bytes]
    lines = [
        _line("model and GPU known", [len([f for f in found if "refused" not in f]) for found in (before, now)], rows),
        *_errors("weights", "weights", before, now),
        _near("tokens from bytes, one GPU", "tokens", before, now, alone),
        _near("concurrency from printed tokens", "concurrency", before, now, range(len(rows))),
        *_errors("KV bytes, GPU and flags in the log", "kv", before, now),
        _starts(rows, before, now),
    ]
    return [f"{TITLE}", *lines]


def figures(row: Row) -> dict[str, float | bool]:
    """Relative and signed; none of them where the log lacks what it takes, or the catalogue the model."""
    if catalog().model(row.facts["model"]) is None:
        return {"refused": True}
    known = row.gpu_known
    cache = row.kv_error() if known else None
    found = {
        "weights": row.weights_error(),
        "kv": cache[0] / cache[1] if cache else None,
        "tokens": row.tokens_error(),
        "concurrency": row.concurrency_error(),
        "fits": row.predicted.fits if known else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _line(part: str, counts: Sequence[int], rows: Sequence[object]) -> str:
    texts = [f"{count} of {len(rows)}" for count in counts]
    return f"{part:<50} {texts[0]:>12} {texts[1]:>12}"


def _errors(part: str, name: str, before: Sequence[Figures], now: Sequence[Figures]) -> list[str]:
    pairs = [[abs(f[name]) for f in found if name in f] for found in (before, now)]
    made: tuple[tuple[str, Callable[[Sequence[float]], float]], ...] = (("median", median), ("largest", max))
    return [
        f"{f'{part}, {word} of {len(pairs[0])} and {len(pairs[1])}':<50} "
        f"{of(pairs[0]):>12.3%} {of(pairs[1]):>12.3%}"
        for word, of in made
    ]  # fmt: skip


def _near(part: str, name: str, before: Sequence[Figures], now: Sequence[Figures], which: Sequence[int]) -> str:
    texts = []
    for found in (before, now):
        errors = [abs(found[i][name]) for i in which if name in found[i]]
        texts.append(f"{sum(e <= 0.001 for e in errors)} of {len(errors)}")
    return f"{f'{part}, within 0.1 %':<50} {texts[0]:>12} {texts[1]:>12}"


def _starts(rows: Sequence[Row], before: Sequence[Figures], now: Sequence[Figures]) -> str:
    texts = []
    for found in (before, now):
        said = [(f["fits"], row.facts["started"]) for row, f in zip(rows, found, strict=True) if "fits" in f]
        texts.append(f"{sum(a == b for a, b in said)} of {len(said)}")
    return f"{'will it start, GPU and flags in the log':<50} {texts[0]:>12} {texts[1]:>12}"
