"""What a plan's services are offered, and how a GPU's memory is shared out: the two tables of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import grouped, percent
from llmfleet.cli.render.plan_groups import TRACE, Group
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Budget

WIDE, NARROW = 120, 96
BAR = 32
PARTS = (("█", "weights"), ("▓", "act"), ("▒", "buffers"), ("░", "KV"), (" ", "free"))
RIGHT = ("context", "share", "peak → room")

Cell = Callable[[Group], str]


def services_table(groups: Sequence[Group], inventory: Inventory, width: int) -> Table:
    """A row for each kind of instance. A narrow one names a service's further pools where a wide one has a column."""
    columns = _columns(inventory, width)
    table = plain_table("service", *columns)
    for column in table.columns:
        column.no_wrap = column.header != "on"
        column.justify = "right" if column.header in RIGHT else "left"
    last = ""
    for g in groups:
        again = Text(f"  {g.pools}" if width < NARROW else "")
        name = again if g.service.name == last else Text(g.service.name, "bold")
        table.add_row(name, *(cell(g) for cell in columns.values()))
        last = g.service.name
    table.caption = _caption(groups, inventory)
    table.caption_justify, table.caption_style = "left", "dim"
    return table


def _columns(inventory: Inventory, width: int) -> dict[str, Cell]:
    wide, narrow = width >= WIDE, width < NARROW
    return {
        **({} if narrow else {"pool": lambda g: g.pools}),
        "instances": lambda g: f"{len(g.instances)} × {g.shape}",
        "on": lambda g: g.nodes,
        **({"engine": lambda g: g.engine} if wide else {}),
        **({} if narrow else {"precision": lambda g: g.precision}),
        **({"context": lambda g: _tokens(g.one.max_model_len)} if wide else {}),
        "share": lambda g: percent(g.share),
        "peak → room": _load,
        "TTFT": lambda g: _tail(g, g.one.expected.ttft_tail_ms, _slo(inventory, g, "ttft") if wide else None),
        "TPOT": lambda g: _tail(g, g.one.expected.tpot_tail_ms, _slo(inventory, g, "tpot") if wide else None),
    }


def _load(g: Group) -> str:
    peak = g.service.demand_rps * g.share
    return f"{rate_text(peak if g.share >= TRACE else 0)} → {rate_text(sum(i.capacity_rps for i in g.instances))}/s"


def _slo(inventory: Inventory, g: Group, name: str) -> float | None:
    slo = inventory.service(g.service.name).slo
    limit: float | None = getattr(slo, name)
    return g.service.ttft_limit_s(g.one.id, limit, slo.percentile) if name == "ttft" else limit


def _tail(g: Group, tail_ms: float, limit_s: float | None) -> str:
    if not tail_ms or not g.service.demand_rps or g.share < TRACE:
        return "–"
    return time_text(tail_ms) + (f" ≤ {time_text(limit_s * 1000)}" if limit_s else "")


def _caption(groups: Iterable[Group], inventory: Inventory) -> str:
    shown = {g.service.name for g in groups}
    percentiles = {f"{s.slo.percentile:g}" for s in inventory.services if s.name in shown}
    return (
        f"Room: requests a second inside the SLO. TTFT and TPOT: p{'/'.join(sorted(percentiles))} at the peak. "
        "All are estimates."
    )


def memory_table(groups: Sequence[Group], width: int) -> Table:
    """One GPU of each kind of instance; once where several services are alike in it."""
    cpu = [g.one.accelerator == "cpu" for g in groups]
    place = "slot" if all(cpu) else "GPU or slot" if any(cpu) else "GPU"
    legend = " ".join(f"{mark} {name}" for mark, name in PARTS[:-1])
    table = plain_table(f"memory of one {place}, GiB", legend, "weights", "act", "buf", "KV", "free", "requests")
    for column in table.columns[2:]:
        column.justify = "right"
    alike: dict[object, list[Group]] = {}
    for g in groups:
        alike.setdefault((g.nodes, g.one.budget, g.one.max_concurrency), []).append(g)
    for members in alike.values():
        one, parts = members[0].one, memory_parts(members[0].one.budget)
        bar = Text(_bar(parts, BAR if width >= WIDE else BAR // 2), no_wrap=True)
        table.add_row(group_label(members), bar, *(f"{part:.1f}" for part in parts), grouped(one.max_concurrency))
    return table


def group_label(members: Sequence[Group]) -> Text:
    """Kinds of instance on the same nodes."""
    names, one = ", ".join(dict.fromkeys(g.service.name for g in members)), members[0]
    share = f", {one.shape}" if one.one.gpu_share < 1 else ""
    return Text(f"{names} on {one.nodes}{share}", "bold")


def memory_parts(b: Budget) -> tuple[float, ...]:
    buffers = b.non_torch_gib + b.cuda_graph_gib
    return (b.weights_gib, b.activation_gib, buffers, b.kv_available_gib, max(0.0, b.slack_gib))


def _bar(parts: Iterable[float], width: int) -> str:
    """Each part as long as its size."""
    sizes = list(parts)
    total = sum(sizes) or 1.0
    ends = [round(width * sum(sizes[: i + 1]) / total) for i in range(len(sizes))]
    starts = [0, *ends[:-1]]
    return "".join(mark * (end - start) for (mark, _), start, end in zip(PARTS, starts, ends, strict=True))


def plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def time_text(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.0f} ms"


def _tokens(tokens: int) -> str:
    thousand = 1024 if tokens % 1024 == 0 else 1000
    return f"{tokens / thousand:.0f}k" if tokens >= thousand else str(tokens)


def rate_text(rate: float) -> str:
    return f"{rate:.3g}" if rate < 10 else grouped(round(rate))
