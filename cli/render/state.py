"""The state as a table, and what a rebuild changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmfleet.cli.output import counted
from llmfleet.launch.rebuild import Rebuilt
from llmfleet.launch.record.state import ProcessRecord, State


def render_state(state: State, path: Path) -> RenderableType:
    parts: list[RenderableType] = [_headline(state), ""]
    if not state.nodes:
        return Group(*parts[:1], Text("nothing is on record: nothing was started, or all was taken down", "dim"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("node", "host", "", "process", "state", "started by plan"):
        table.add_column(column, overflow="fold")
    for name, values in sorted(state.nodes.items()):
        mark = "drained" if name in state.drained else "draining" if name in state.draining else ""
        mine = sorted((r for r in state.processes.values() if r.node == name), key=lambda r: r.name)
        table.add_row(name, str(values.get("host", "")), Text(mark, "yellow"), *_process(mine[:1]))
        for record in mine[1:]:
            table.add_row("", "", "", *_process([record]))
    return Group(*parts, table, "", Text(f"change {state.serial} of schema {state.schema}, in {path}", "dim"))


def _process(records: Sequence[ProcessRecord]) -> tuple[str, str, str]:
    if not records:
        return "–", "", ""
    return records[0].name, records[0].state, records[0].plan[:6]


def _headline(state: State) -> Text:
    count = f"{len(state.processes)} process{'es' * (len(state.processes) != 1)}"
    text = Text.assemble((state.cluster, "bold"), f": {count} on {counted(len(state.nodes), 'node')}")
    if state.plan_hash:
        text.append(f", plan {state.plan_hash[:6]}")
        if state.changing:
            text.append(f", in the middle of a change from {state.previous_plan[:6]}", "bold yellow")
        elif not state.complete:
            text.append(", not all up yet", "yellow")
        elif state.previous_plan:
            text.append(f", before it {state.previous_plan[:6]}")
    return text


def rebuilt(report: Rebuilt) -> str:
    """What differs from what was on record, and what to do next."""
    would = "would be " if report.dry_run else ""
    lines = [f"{key}: runs, {would}put on record" for key in report.found]
    lines += [f"{key}: does not run, {would}struck off" for key in report.gone]
    if not report.changed:
        return "Nothing to do: what is on record is what runs."
    lines.append(f"{report.processes} processes {'would be ' if report.dry_run else ''}on record.")
    if report.unreachable:
        lines.append(f"Not reached, their records stay: {', '.join(report.unreachable)}.")
    if not report.dry_run:
        lines.append("Next: llmfleet status, and llmfleet up to have what the plan says.")
    return "\n".join(lines)
