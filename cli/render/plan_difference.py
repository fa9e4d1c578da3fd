"""The difference of two plans, for people: what would be served, what would start, stop and start anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import counted, grouped
from llmfleet.cli.render.names import compressed
from llmfleet.cli.render.plan_groups import at_work, engine, precision, shape
from llmfleet.cli.render.plan_tables import NARROW
from llmfleet.planner.difference import ROUTED, SAID, ChangedInstance, Difference
from llmfleet.planner.plan import Instance, Plan, ServicePlan, Unused, by_service

ADDED, REMOVED, CHANGED = ("+", "green"), ("−", "red"), ("~", "yellow")
FOLLOWING = ("port", "weights_path", "image", "gpu_memory_utilization", "max_num_batched_tokens",
             "long_prefill_token_threshold")  # fmt: skip
WORDS = {"max_model_len": "context", "max_num_seqs": "requests at once", "engine_version": "version"}
GIB = 1 << 30
T = TypeVar("T")
Line = tuple[tuple[str, str], str, str]  # mark with its style, what, the words about it


def render_question(
    terms: Sequence[str], before: Plan, after: Plan, found: Difference, console: Console, *, served: bool = True
) -> None:
    """What a plan would be like if …"""
    console.print(Text.assemble((after.cluster, "bold"), ": what if ", (" · ".join(terms), "bold")))
    console.print(Text(f"Plan {before.hash[:6]} now, {after.hash[:6]} then. Nothing is written.", "dim"))
    console.print()
    for text, style in _verdict(before, after):
        console.print(Text(text, style))
    console.print()
    if served:
        console.print(_services(before, after, narrow=console.width < NARROW))
        console.print()
    render_difference(found, console)


def render_difference(found: Difference, console: Console) -> None:
    """What `up` would start, stop and start anew; what is left over, and what is to be said of it."""
    instances = [*instance_lines(found)]
    sections = (
        ("instances", instances or [(("=", "dim"), "all as they are", "")]),
        ("GPUs without work", [*_idle_lines(found)]),
        ("warnings", [*_warning_lines(found)]),
    )
    for title, lines in sections:
        if lines:
            console.print(_section(title, lines))
            console.print()


def instance_lines(found: Difference) -> Iterator[Line]:
    for instances, mark in ((found.removed, REMOVED), (found.added, ADDED)):
        for alike in _alike(instances, lambda i: (i.service, shape(i), precision(i), engine(i), i.max_model_len)):
            one = alike[0]
            about = f"{precision(one)}, {grouped(one.max_model_len)} tokens of context, {engine(one)}"
            yield mark, f"{len(alike)} × {shape(one)}", f"{one.service} on {_nodes(alike)}: {about}"
    for changed in _alike(found.restarts, lambda c: (c.after.service, *_said(c))):
        after = [c.after for c in changed]
        what = f"{after[0].service} on {_nodes(after)} starts anew: {', '.join(_said(changed[0]))}"
        yield CHANGED, f"{len(changed)} × {shape(after[0])}", what
    routed = [c.after for c in found.changed if not c.other_process and c.other_routing]
    if routed:
        names = ", ".join(by_service(routed))
        yield CHANGED, counted(len(routed), "instance"), f"of {names} keep running, with other shares or limits"


def _said(c: ChangedInstance) -> list[str]:
    """What makes another process of it. Fields that follow from others are left out where those say more."""
    shown = [f for f in c.fields if f not in ROUTED | SAID]
    telling = [f for f in shown if f not in FOLLOWING] or shown
    return list(dict.fromkeys(_change(f, c.before, c.after) for f in telling))


def _change(field: str, before: Instance, after: Instance) -> str:
    if field == "gpus":
        counts = [[len(gpus) for gpus in i.gpus.values()] for i in (before, after)]
        if counts[0] == counts[1]:
            return "other GPUs"
        return f"{' + '.join(map(str, counts[0]))} → {counted(sum(counts[1]), 'GPU')}"
    if field in ("tp", "pp"):
        return f"{shape(before)} → {shape(after)}"
    if field in ("dtype", "quantization"):
        return f"{precision(before)} → {precision(after)}"
    old, new = getattr(before, field), getattr(after, field)
    if field == "kv_cache_memory_bytes":
        return f"KV cache {old / GIB:.1f} → {new / GIB:.1f} GiB a GPU"
    return f"{WORDS.get(field, field)} {_value(old)} → {_value(new)}"


def _value(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return grouped(value)
    return "none" if value is None else str(value)


def _verdict(before: Plan, after: Plan) -> Iterator[tuple[str, str]]:
    old = {s.name: s for s in before.services}
    lost = [s for s in after.services if not s.slo_met and (s.name not in old or old[s.name].slo_met)]
    won = [s for s in after.services if s.slo_met and s.name in old and not old[s.name].slo_met]
    still = [s for s in after.services if not s.slo_met and s not in lost]
    for services, words, style in (
        (lost, "would be short", "bold red"),
        (still, "would still be short", "yellow"),
        (won, "would be short no more", "green"),
    ):
        if services:
            yield f"{', '.join(s.name for s in services)} {words}.", style
    if not lost and not still:
        yield "Short of nothing then.", "green"


def _services(before: Plan, after: Plan, *, narrow: bool) -> Table:
    """Every service; where a figure changes, both. A narrow one leaves counts to the list of instances below."""
    old, new = {s.name: s for s in before.services}, {s.name: s for s in after.services}
    instances = by_service(before.instances), by_service(after.instances)
    busy = at_work(before), at_work(after)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    titles = ["instances", "peak", "room", "TTFT", "TPOT"][narrow:]
    table.add_column("service", overflow="fold")
    for title in (*titles, ""):
        table.add_column(title, no_wrap=True)
    for name in [*new, *(n for n in old if n not in new)]:
        was, now = old.get(name), new.get(name)
        figures = [
            _figures(service, len(all_of.get(name, ())), busy_of.get(name, []))
            for service, all_of, busy_of in zip((was, now), instances, busy, strict=True)
        ]
        table.add_row(Text(name, "bold"), *[*map(_both, *figures)][narrow:], _fate(was, now))
    return table


def _figures(service: ServicePlan | None, count: int, busy: Sequence[Instance]) -> tuple[str, ...]:
    peak, room = (service.demand_rps, service.capacity_rps) if service else (0.0, 0.0)
    tails = (_tail(service, busy, field) for field in ("ttft_tail_ms", "tpot_tail_ms"))
    return (str(count), f"{_rate(peak)}/s", f"{_rate(room)}/s", *tails)


def _fate(was: ServicePlan | None, now: ServicePlan | None) -> Text:
    if now is None:
        return Text("gone", "dim")
    if now.slo_met:
        return Text("" if was and was.slo_met else "served", "green")
    return Text("short", "red")


def _both(before: str, after: str) -> Text:
    if before == after:
        return Text(after, "dim")
    return Text(f"{before.removesuffix('/s')} → {after}")


def _tail(service: ServicePlan | None, members: Sequence[Instance], field: str) -> str:
    """Of the slowest kind of instance, at the peak."""
    worst = max((getattr(i.expected, field) for i in members), default=0.0)
    if not worst or not service or not service.demand_rps:
        return "–"
    return f"{worst / 1000:.3g} s" if worst >= 1000 else f"{worst:.0f} ms"


def _rate(rate: float) -> str:
    return f"{rate:.3g}" if rate < 10 else grouped(round(rate))


def _idle_lines(found: Difference) -> Iterator[Line]:
    for places, mark in ((found.busy, REMOVED), (found.idle, ADDED)):
        for alike in _alike(places, lambda u: (u.reason, len(u.gpus))):
            count = sum(len(u.gpus) for u in alike)
            yield mark, counted(count, "GPU"), f"of {_names(alike)}: {alike[0].reason}"


def _names(places: Iterable[Unused]) -> str:
    return compressed(dict.fromkeys(u.node for u in places))


def _nodes(instances: Iterable[Instance]) -> str:
    return compressed(dict.fromkeys(node for i in instances for node in i.nodes))


def _warning_lines(found: Difference) -> Iterator[Line]:
    yield from ((REMOVED, "", w) for w in found.gone_warnings)
    yield from ((ADDED, "", w) for w in found.new_warnings)


def _alike(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    found: dict[object, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def _section(title: str, lines: Sequence[Line]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    if any(what for _, what, _ in lines):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.title, table.title_style, table.title_justify = title, "bold underline", "left"
    for (mark, style), what, words in lines:
        table.add_row(Text(f"  {mark}", style), *([what, Text(words)] if what else [Text(words)]))
    return table
