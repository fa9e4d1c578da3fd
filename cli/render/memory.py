"""One model on one GPU shape, on one screen: a bar of the GPU's memory, exact parts and estimates told apart."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import console, grouped
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.memory.advice import suggestions
from llmfleet.planner.memory.settings import DTYPE_NAMES, Settings, resolve
from llmfleet.planner.memory.types import EngineOptions, KvCache, Memory, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Budget, Expected

WIDTH = 64
PARTS = (
    ("weights", "█", "blue"),
    ("activations", "▓", "magenta"),
    ("buffers", "▒", "yellow"),
    ("KV cache", "░", "green"),
    ("free", "·", "dim"),
)
# How far estimated parts lay from the logs, as a part of their size (docs/validation.md).
BAND = {"activations": 0.1, "buffers": 0.3, "CUDA graphs": 0.4}


def show(
    model: Model,
    gpu: Gpu,
    shape: Shape,
    options: EngineOptions,
    memory: Memory,
    speed: Expected | None,
    notes: Sequence[str],
) -> None:
    out = console()
    s = resolve(model, gpu, shape, options)
    out.print(_headline(model, s))
    out.print()
    out.print(_bar(memory.tightest))
    out.print(_parts(memory.tightest, s, cached=memory.kv is not None))
    out.print()
    if memory.kv and memory.kv.gpu_blocks:
        out.print(_cache(memory.kv, s))
    if speed:
        out.print(_speed(speed, generates=model.task == "generate"))
    for note in notes:
        out.print(Text(f"note: {note}", style="yellow"))
    if memory.fits:
        return
    out.print(Text(f"does not fit: {memory.reason}", style="bold red"))
    for better in suggestions(model, gpu, shape, options):
        held = f"{grouped(better.memory.kv.tokens)} tokens of KV cache" if better.memory.kv else "fits"
        out.print(Text(f"  try: {better.flags:<24} {held}"))


def _headline(model: Model, s: Settings) -> Text:
    shape = "".join(f" × {name}{n}" for name, n in (("TP", s.shape.tp), ("PP", s.shape.pp)) if n > 1)
    form = s.model.native_quantization or DTYPE_NAMES[s.dtype]
    version = ".".join(map(str, s.version))
    text = Text(model.name, style="bold")
    text.append(
        f"  {model.params / 1e9:.3g} B parameters, {form}, on {s.gpu.name}{shape}, vLLM {version}",
        style="none",
    )
    return text


def _bar(b: Budget) -> Text:
    sizes = (b.weights_gib, b.activation_gib, b.non_torch_gib, b.kv_available_gib)
    text, used = Text(), 0
    for size, (_, mark, style) in zip(sizes, PARTS, strict=False):
        cells = min(WIDTH - used, round(size / b.total_gib * WIDTH) or (1 if size > 0.05 else 0))
        text.append(mark * cells, style)
        used += cells
    text.append(PARTS[-1][1] * (WIDTH - used), PARTS[-1][2])
    return text.append(f"  {b.total_gib:.1f} GiB")


def _parts(b: Budget, s: Settings, *, cached: bool) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = (
        ("weights", b.weights_gib),
        ("activations", b.activation_gib),
        ("buffers", b.non_torch_gib),
        ("KV cache", b.kv_available_gib),
    )
    for (name, size), (_, mark, style) in zip(rows, PARTS, strict=False):
        if name == "KV cache" and not cached:
            continue
        table.add_row(Text(f"{mark} {name}", style), f"{size:.2f} GiB", _sure(name, size, b))
    if b.cuda_graph_gib:
        table.add_row("  CUDA graphs", f"{b.cuda_graph_gib:.2f} GiB", _sure("CUDA graphs", b.cuda_graph_gib, b))
    if b.slack_gib < 0:
        table.add_row(Text("  missing", "bold red"), f"{-b.slack_gib:.2f} GiB", "more than the GPU has")
    else:
        outside = f"outside of --gpu-memory-utilization {s.utilization:g}" if cached else "not needed"
        table.add_row(Text("· free", "dim"), f"{b.slack_gib:.2f} GiB", outside)
    return table


def _sure(name: str, size: float, b: Budget) -> str:
    if name == "weights":
        return "exact: every tensor by its sharding rule"
    if name == "KV cache" and not size:
        return "nothing is left"
    if name == "KV cache":
        band = sum(
            BAND[part] * value
            for part, value in (
                ("activations", b.activation_gib),
                ("buffers", b.non_torch_gib),
                ("CUDA graphs", b.cuda_graph_gib),
            )
        )
        return f"what is left ± {band:.2f}"
    return f"estimate ± {max(0.05, BAND[name] * size):.2f}"


def _cache(cache: KvCache, s: Settings) -> Text:
    return Text(
        f"KV cache  {grouped(cache.tokens)} tokens in {grouped(cache.gpu_blocks)} blocks of {cache.block_size}, "
        f"{cache.bytes_per_token / 1024:.1f} KiB a token on each GPU: {cache.max_concurrency:.1f} requests "
        f"of {grouped(s.max_model_len)} tokens at once"
    )


def _speed(e: Expected, *, generates: bool) -> Text:
    low, high = e.tpot_ms_range
    first = e.ttft_ms_range
    if not generates:
        return Text(
            f"speed     {e.ttft_ms:.0f} ms a request ({first[0]:.0f} to {first[1]:.0f}), "
            f"{_rate(e.requests_per_s)} requests/s   {e.source}"
        )
    return Text(
        f"speed     first token {e.ttft_ms:.0f} ms ({first[0]:.0f} to {first[1]:.0f}), "
        f"then {e.tpot_ms:.1f} ms a token ({low:.1f} to {high:.1f}); "
        f"{e.output_tokens_per_s:.0f} tokens/s, {_rate(e.requests_per_s)} requests/s   {e.source}"
    )


def _rate(value: float) -> str:
    return grouped(round(value)) if value >= 10 else f"{value:.2g}"


def show_all(model: Model, shape: Shape, rows: Sequence[tuple[Gpu, Memory]]) -> None:
    """One row a GPU, those that fit first."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("GPU", "memory", "weights", "KV cache", "tokens", "requests"):
        table.add_column(name, justify="left" if name == "GPU" else "right")
    table.add_column("")
    for gpu, memory in sorted(rows, key=lambda row: (not row[1].fits, -row[1].tightest.kv_available_gib)):
        b, kv = memory.tightest, memory.kv
        held = (grouped(kv.tokens), f"{kv.max_concurrency:.1f}") if kv and memory.fits else ("", "")
        note = "" if memory.fits else memory.reason or ""
        table.add_row(
            gpu.name,
            f"{b.total_gib:.1f}",
            f"{b.weights_gib:.1f}",
            f"{b.kv_available_gib:.1f}",
            *held,
            Text(note, "dim"),
        )
    out = console()
    out.print(Text(f"{model.name}  TP{shape.tp} PP{shape.pp}, GiB of one GPU", style="bold"))
    out.print(table)
