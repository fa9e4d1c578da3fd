"""llmfleet watch."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption
from llmfleet.cli.plan import plan_of, write_plan
from llmfleet.cli.printable import printable
from llmfleet.cli.progress import plain_progress
from llmfleet.cli.workspace import load_fleet, plan_path, read_inventory
from llmfleet.launch.units import watch as watch_unit
from llmfleet.launch.watch_loop import Watch, WatchOptions
from llmfleet.planner.errors import InputError


def watch(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    apply: Annotated[bool, typer.Option("--apply", help="Do what it proposes; else only say it.")] = False,
    dead_after: Annotated[
        float, typer.Option("--dead-after", min=10, metavar="SECONDS", help="A node away for so long counts as dead.")
    ] = 120,
    interval: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Between two looks.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: at, says.")] = False,
    print_unit: Annotated[bool, typer.Option("--print-unit", help="Print a systemd unit that runs this.")] = False,
    install_unit: Annotated[
        bool, typer.Option("--install-unit", help="Install that unit: root's for the system, else for you alone.")
    ] = False,
) -> None:
    """See a node die, and plan its services anew on what is left.

    Runs until Ctrl-C. A node that is away for a moment, or that only this machine cannot reach, is left alone; one
    that stays away and that the router does not reach either counts as dead. Then services that lost capacity are
    planned anew on what is left, within the inventory's policy; all others stay as they are. The plan is proposed,
    or with --apply put in place, once. A node that comes back is told of and not put back by itself.

    \b
    Examples:
      llmfleet watch                             say what could be done
      llmfleet watch --apply --dead-after 300    do it
      llmfleet watch --apply --install-unit      as a service of systemd
    """
    if as_json and (print_unit or install_unit):
        raise InputError("a unit is no JSON", hint="Leave out --json, or --print-unit and --install-unit.")
    if print_unit or install_unit:
        _unit(inventory, apply=apply, dead_after=dead_after, interval=interval, install=install_unit)
        return
    try:
        Watch(
            load_fleet(inventory, plain_progress(quiet=True)),
            WatchOptions(interval, dead_after, apply),
            make=lambda changed: plan_of(changed, inventory),
            say=_say_json if as_json else _say,
            put=lambda plan: write_plan(plan, plan_path(inventory)),
        ).run()
    except KeyboardInterrupt:  # the way out, not a failure
        return


def _say(text: str) -> None:
    typer.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {printable(text)}")


def _say_json(text: str) -> None:
    typer.echo(json.dumps({"at": datetime.now().astimezone().isoformat(timespec="seconds"), "says": text}))


def _unit(path: Path, *, apply: bool, dead_after: float, interval: float, install: bool) -> None:
    cluster, folder, system = read_inventory(path).cluster, path.resolve().parent, os.geteuid() == 0
    program = Path(sys.executable).with_name("llmfleet")
    figures = ("--dead-after", f"{dead_after:g}", "--interval", f"{interval:g}")
    argv = (str(program), "watch", "--inventory", str(path.resolve()), *figures, *(("--apply",) if apply else ()))
    text = watch_unit.unit_text(cluster, argv, folder, system=system)
    if not install:
        typer.echo(text, nl=False)
        return
    written = watch_unit.install(cluster, text, system=system)
    systemctl = "systemctl" if system else "systemctl --user"
    typer.echo(f"{written} is written. Next: {systemctl} daemon-reload && {systemctl} enable --now {written.name}")
    if not system:
        typer.echo("For it to run while you are not logged in: loginctl enable-linger")
