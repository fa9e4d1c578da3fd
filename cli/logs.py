"""llmfleet logs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, InstanceArgument, InventoryOption, Json, Quiet
from llmfleet.cli.output import echo_json
from llmfleet.cli.printable import printable
from llmfleet.cli.progress import plain_progress
from llmfleet.cli.workspace import load_fleet
from llmfleet.launch import logs as operation
from llmfleet.planner.errors import InputError


def logs(
    instance: InstanceArgument,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="COUNT", help="So many of the last.")] = 100,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show or follow an instance's log.

    Besides instances, "router" ("router@NODE" where several have one) and "ray-head" have logs;
    with Ray Serve "application", and instances none of their own.

    \b
    Examples:
      llmfleet logs chat-a800-0-0
      llmfleet logs chat-a800-0-0 -f
      llmfleet logs router -n 20
    """
    if follow and as_json:
        raise InputError("--follow never ends and --json is one document", hint="Use one of them.")
    fleet = load_fleet(inventory, plain_progress(quiet=quiet))
    found = operation.logs(fleet, instance, lines=lines, follow=follow)
    if as_json:
        echo_json({"instance": instance, "lines": list(found)})
        return
    try:
        for line in found:
            typer.echo(_on_screen(line) if sys.stdout.isatty() else line)
    except KeyboardInterrupt:
        raise typer.Exit() from None


def _on_screen(line: str) -> str:
    """Engines write what clients sent: colours go, of a bar that overwrote itself the end stays."""
    from rich.text import Text

    return printable(Text.from_ansi(line).plain)
