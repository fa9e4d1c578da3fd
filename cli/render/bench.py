"""Measured figures for people: one row a target, percentiles side by side, and the estimate beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import grouped, percent
from llmfleet.cli.render.simulate import milliseconds
from llmfleet.launch.bench.figures import Figures
from llmfleet.launch.bench.measure import Knee, Measured
from llmfleet.planner.speed.pace import APART

if TYPE_CHECKING:
    from llmfleet.launch.bench.compare import Compared


def document(results: Sequence[Measured | Knee], compared: Sequence[Compared]) -> dict[str, Any]:
    """Keys: `measured`, `knees`, `estimates`."""
    from pydantic import TypeAdapter

    def plain(value: Any) -> dict[str, Any]:
        body: dict[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
        return body

    errors = [plain(c) | {"tpot_error": c.tpot_error, "ttft_error": c.ttft_error} for c in compared]
    return {
        "measured": [plain(r) for r in results if isinstance(r, Measured)],
        "knees": [plain(r) for r in results if isinstance(r, Knee)],
        "estimates": errors,
    }


def render_measured(results: Sequence[Measured], console: Console) -> None:
    table = _table("measured", "load", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "ITL p99", "E2E p50", "requests",
                   "tokens out", "in SLO", "hits", "errors")  # fmt: skip
    for result in results:
        f = result.figures
        if f.client_limited:
            table.add_row(result.target, _load(f), Text(f"refused: {f.client_limited}", "bold red"))
            continue
        table.add_row(
            result.target, _load(f), *_ms(f.ttft_ms, "p50", "p95", "p99"), *_ms(f.tpot_ms, "p50", "p95"),
            *_ms(f.itl_ms, "p99"), *_ms(f.e2e_ms, "p50"), f"{f.requests_per_s:g}/s",
            f"{f.output_tokens_per_s:g}/s" if f.tpot_ms else "–", percent(f.attained),
            percent(f.prefix_hit_rate) if f.prefix_hit_rate is not None else "–", _errors(f),
        )  # fmt: skip
    console.print(table)
    for result in results:
        if result.spread:
            parts = ", ".join(
                f"{name.removesuffix('_ms')} {value * 100:.1f} %" for name, value in result.spread.items()
            )
            console.print(f"{result.target}: {len(result.runs)} repeats; between them {parts}")
        for error, count in result.figures.errors.items():
            console.print(Text(f"{result.target}: {count} × {error}", "red"))


def render_knee(knee: Knee, console: Console) -> None:
    console.print(
        Text.assemble((knee.target, "bold"), f": {knee.rate_rps:.4g} requests/s, bounded by {knee.bounded_by}")
    )
    table = _table("rate", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "goodput", "in SLO")
    for f in knee.points:
        inside = f.rate_rps is not None and abs(f.rate_rps - knee.rate_rps) < 1e-9
        table.add_row(
            f"{f.rate_rps:.3g}/s" if f.rate_rps else "alone",
            *_ms(f.ttft_ms, "p50", "p95", "p99"), *_ms(f.tpot_ms, "p50", "p95"), f"{f.goodput_rps:g}/s",
            percent(f.attained), style="bold green" if inside else "",
        )  # fmt: skip
    console.print(table)


def render_compared(compared: Sequence[Compared], console: Console) -> None:
    console.print()
    table = _table(
        "estimate for the same load", "on", "TTFT", "measured", "off by", "TPOT", "measured", "off by", "KV blocks",
        "the engine's", "from",
    )  # fmt: skip
    for c in compared:
        table.add_row(
            c.instance, c.gpu, milliseconds(c.estimated_ttft_ms), milliseconds(c.measured_ttft_ms),
            f"{c.ttft_error * 100:+.0f} %", *_tpot(c), *_blocks(c), c.source,
        )  # fmt: skip
    console.print(table)
    for c in compared:
        if c.measured_weights_gib and c.planned_weights_gib:
            planned, logged = f"{c.planned_weights_gib:.2f}", f"{c.measured_weights_gib:.2f}"
            console.print(f"{c.instance}: weights of a GPU, GiB: {planned} planned, {logged} in the engine's log")
    far = [c.instance for c in compared if c.apart]
    if far:
        console.print(
            Text(f"more than {APART * 100:.0f} % apart: {', '.join(far)}. Measured figures win: ", "yellow")
            + Text("llmfleet bench --calibrate, then llmfleet plan")
        )


def _tpot(c: Compared) -> tuple[str, str, Text]:
    if c.tpot_error is None or c.estimated_tpot_ms is None or c.measured_tpot_ms is None:
        return "–", "–", Text("–")
    style = "yellow" if c.apart else ""
    return (
        milliseconds(c.estimated_tpot_ms), milliseconds(c.measured_tpot_ms),
        Text(f"{c.tpot_error * 100:+.1f} %", style),
    )  # fmt: skip


def _blocks(c: Compared) -> tuple[str, Text]:
    planned, engine = c.planned_kv_blocks, c.measured_kv_blocks
    return (
        grouped(planned) if planned is not None else "–",
        Text(grouped(engine), "" if engine == planned else "yellow") if engine is not None else Text("–"),
    )


def _load(f: Figures) -> str:
    if f.users is not None:
        return f"{grouped(f.users)} user{'s' * (f.users != 1)}"
    return f"{f.rate_rps:.3g}/s" if f.rate_rps is not None else "trace"


def _errors(f: Figures) -> Text:
    count = sum(f.errors.values())
    return Text(str(count), "bold red" if count else "")


def _ms(values: dict[str, float], *names: str) -> list[str]:
    return [milliseconds(values[name]) if name in values else "–" for name in names]


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="left" if name in ("on", "load", "from") else "right")
    return table
