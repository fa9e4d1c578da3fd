"""llmfleet status."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, Quiet
from llmfleet.cli.output import console, echo_json, grouped
from llmfleet.cli.progress import looking, plain_progress
from llmfleet.cli.render.status import render_status, status_json
from llmfleet.cli.render.watch import render_watch
from llmfleet.cli.workspace import load_fleet, plan_path
from llmfleet.launch import status as operation
from llmfleet.launch.looking import Looker
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console, ScreenContext

NOT_AS_PLANNED = 1


def status(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="Between two looks of --watch.")] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Nodes, instances, router and live figures.

    Exits 1 when anything is not as the plan says; drained nodes are as they should be. --quiet only sets the exit code.

    \b
    Examples:
      llmfleet status
      llmfleet status --watch --interval 5
      llmfleet status --json | jq '.instances[] | select(.state != "healthy")'
    """
    if watch and (as_json or quiet):
        raise InputError("--watch never ends: it goes with neither --json nor --quiet", hint="Leave one of them out.")
    if watch:
        _watch(inventory, interval)
        return 0
    with looking(quiet=quiet) as observe:
        fleet = load_fleet(inventory, observe)
        found = operation.status(fleet)
    if as_json:
        echo_json(status_json(found, fleet.plan))
    elif not quiet:
        out = console()
        out.print(render_status(found, fleet.plan, width=out.width))
    return 0 if found.ok else NOT_AS_PLANNED


def _watch(inventory: Path, interval: float) -> None:
    """A screen of its own on a terminal, one table after the other elsewhere. Ctrl-C is the way out, not a failure.

    A plan or inventory that changes meanwhile is read anew.
    """
    out = console(least=0)
    try:
        with out.screen() if sys.stdout.isatty() else nullcontext() as screen:
            while True:
                if screen is not None:
                    screen.update("looking …")
                fleet, stamp = load_fleet(inventory, plain_progress(quiet=screen is not None)), _stamp(inventory)
                with Looker(fleet) as looker:
                    while stamp == _stamp(inventory):
                        _show(out, screen, looker, fleet.plan)
                        time.sleep(interval)
    except KeyboardInterrupt:
        return


def _show(out: Console, screen: ScreenContext | None, looker: Looker, plan: Plan) -> None:
    found, rates = looker.look()
    now = datetime.now()
    if screen is not None:
        screen.update(render_watch(found, plan, rates, width=out.width, height=out.height, now=now))
        return
    tokens = round(sum(rates.output_tokens_per_s.values()))
    out.print(f"{now:%Y-%m-%d %H:%M:%S}  {grouped(tokens)} tokens/s", render_status(found, plan, width=out.width), "")


def _stamp(inventory: Path) -> tuple[float, ...]:
    """Changes when the inventory or the plan does."""
    return tuple(path.stat().st_mtime if path.exists() else 0.0 for path in (inventory, plan_path(inventory)))
