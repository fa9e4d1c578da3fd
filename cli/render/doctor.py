"""What checks found: nodes alike that are fine in one line, the rest with reason and remedy, those alike together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import counted
from llmfleet.cli.render.names import compressed
from llmfleet.launch.doctor.result import CheckResult, DoctorReport, NodeReport

MARKS = {"ok": ("✓", "green"), "warn": ("!", "bold yellow"), "fail": ("✗", "bold red")}


def render_doctor(
    report: DoctorReport, cluster: str, *, verbose: bool = False, then: str
) -> RenderableType:
    """`then`: what comes next where all is well."""
    parts: list[RenderableType] = [_headline(report, cluster), ""]
    shown = [n for n in report.nodes if verbose or not _fine(n)]
    parts += [part for alike in _alike(shown, verbose=verbose) for part in (_nodes(alike, verbose=verbose), "")]
    parts += [Text.assemble(MARKS["ok"], " ", line) for line in _fine_lines(n for n in report.nodes if n not in shown)]
    parts += [Text(f"next: {then if report.ok else 'mend what failed, then llmfleet doctor again'}", "dim")]
    return Group(*parts)


def _fine(node: NodeReport) -> bool:
    return node.reached and all(r.status == "ok" for r in node.results)


def _headline(report: DoctorReport, cluster: str) -> Text:
    failed = sum(bool(n.reached and n.count("fail")) for n in report.nodes)
    lost, warned = len(report.unreachable), sum(bool(n.count("warn")) for n in report.nodes)
    text = Text.assemble((cluster, "bold"), f": {counted(len(report.nodes), 'node')}, ")
    said = [
        f"{failed} failed" * bool(failed),
        f"{lost} not reached" * bool(lost),
        f"{warned} with warnings" * bool(warned),
    ]
    style = "green" if report.ok else "bold red"
    return text.append(", ".join(s for s in said if s) or "all fine", style)


def _alike(nodes: Iterable[NodeReport], *, verbose: bool) -> Iterable[list[NodeReport]]:
    """Nodes of which the same would be told."""
    groups: dict[object, list[NodeReport]] = {}
    for node in nodes:
        told = tuple(r for r in node.results if verbose or r.status != "ok")
        groups.setdefault((told, node.count("ok")), []).append(node)
    return groups.values()


def _nodes(alike: list[NodeReport], *, verbose: bool) -> Group:
    node = alike[0]
    where = node.host if len(alike) == 1 else counted(len(alike), "node")
    title = Text.assemble((compressed(n.name for n in alike), "bold"), "  ", (where, "dim"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result in node.results:
        if verbose or result.status != "ok":
            table.add_row(Text.assemble("  ", MARKS[result.status], " ", result.name), _told(result))
    passed = node.count("ok")
    if passed and not verbose:
        table.add_row(Text.assemble("  ", MARKS["ok"]), Text(f"{counted(passed, 'check')} passed", "dim"))
    return Group(title, table)


def _told(result: CheckResult) -> Text:
    text = Text(result.detail)
    if result.status != "ok":
        text.append(f"\nwhy: {result.why}", "dim")
        text.append(f"\n→ {result.hint}" if result.hint else "")
    return text


def _fine_lines(nodes: Iterable[NodeReport]) -> Iterator[str]:
    """Nodes with as many checks together."""
    by_count: dict[int, list[str]] = {}
    for node in nodes:
        by_count.setdefault(len(node.results), []).append(node.name)
    for count, names in by_count.items():
        yield f"{compressed(names)}: {counted(count, 'check')} passed"
