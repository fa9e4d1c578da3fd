"""plan --accuracy: how far past estimates were from what bench measured afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import typer

from llmfleet.cli.output import console, counted, echo_json
from llmfleet.cli.workspace import workspace_folder
from llmfleet.launch.bench.compare import ACCURACY, Compared
from llmfleet.planner.errors import InputError


def show_accuracy(inventory: Path, *, as_json: bool) -> None:
    """By GPU and source of the estimate. Raises InputError where bench has not measured anything yet."""
    rows = [summary(group) for group in _groups(_past(inventory)).values()]
    if as_json:
        echo_json({"accuracy": rows})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("on", "estimates from", "measured", "TPOT off by", "worst", "TTFT off by", "worst"):
        table.add_column(name, justify="left" if name in ("on", "estimates from") else "right")
    for row in rows:
        table.add_row(
            row["gpu"], row["source"], counted(row["count"], "time"), *_part(row["tpot"]), *_part(row["ttft"])
        )  # fmt: skip
    console().print(table)
    typer.echo("Medians of |estimated - measured| / measured, each for exactly the load that was measured.")


def summary(group: Sequence[Compared]) -> dict[str, Any]:
    tpot = sorted(abs(e) for c in group if (e := c.tpot_error) is not None)
    ttft = sorted(abs(c.ttft_error) for c in group)
    return {
        "gpu": group[0].gpu, "source": group[0].source, "count": len(group),
        "tpot": {"median": median(tpot), "worst": tpot[-1]} if tpot else None,
        "ttft": {"median": median(ttft), "worst": ttft[-1]},
    }  # fmt: skip


def _groups(past: Sequence[Compared]) -> dict[tuple[str, str], list[Compared]]:
    groups: dict[tuple[str, str], list[Compared]] = {}
    for one in past:
        groups.setdefault((one.gpu, one.source), []).append(one)
    return groups


def _past(inventory: Path) -> list[Compared]:
    file = workspace_folder(inventory) / ACCURACY
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        past = [Compared(**{k: line[k] for k in Compared.__dataclass_fields__ if k in line}) for line in lines]
    except FileNotFoundError:
        past = []
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}", hint="Remove it; llmfleet bench writes a new one.") from None
    if not past:
        raise InputError("nothing was measured yet", hint="llmfleet bench compares estimates with what it measures.")
    return past


def _part(errors: dict[str, float] | None) -> tuple[str, str]:
    return (f"{errors['median'] * 100:.1f} %", f"{errors['worst'] * 100:.0f} %") if errors else ("–", "–")
