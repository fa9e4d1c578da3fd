"""llmfleet audit."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, complete_inventory_nodes
from llmfleet.cli.output import console, echo_json
from llmfleet.cli.workspace import read_inventory, workspace_folder
from llmfleet.launch.record.audit import AuditFile, Entry, node_audit


def audit(
    node: Annotated[
        str | None,
        typer.Argument(
            metavar="NODE",
            help="Ask this node; else what was done from this machine.",
            autocompletion=complete_inventory_nodes,
        ),
    ] = None,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    last: Annotated[int, typer.Option("--last", "-n", min=1, metavar="N", help="So many of the newest entries.")] = 40,
    as_json: Json = False,
) -> None:
    """Who changed what, when, and what came of it.

    Every changed step is written down twice: here, in .llmfleet/audit.log, and on the node it changed, which also
    knows what was done from other machines. A line says what a step is called, never what was in it.

    \b
    Examples:
      llmfleet audit               the newest steps taken from this machine
      llmfleet audit a800-0 -n 5   the newest on one node, whoever took them
      llmfleet audit --json | jq '.entries[] | select(.result != "done")'
    """
    if node is None:
        entries = AuditFile(workspace_folder(inventory)).read(last)
    else:
        entries = node_audit(read_inventory(inventory, nodes_only=True), node, last)
    if as_json:
        echo_json({"entries": [asdict(e) for e in entries]})
    elif entries:
        console().print(_table(entries))
    else:
        typer.echo("nothing was changed yet")


def _table(entries: list[Entry]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("when", "who", "command", "node", "step", "result"):
        table.add_column(column, overflow="fold", no_wrap=column == "when")
    for e in entries:
        when = datetime.fromisoformat(e.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(when, e.who, e.command, e.node, e.step, Text(e.result, "" if e.result == "done" else "red"))
    return table
