"""llmfleet drain and undrain."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmfleet.cli.interrupt import interruptible
from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, NodeArgument, Quiet
from llmfleet.cli.output import echo_json, may_ask
from llmfleet.cli.progress import plain_progress, progress
from llmfleet.cli.render.steps import capacity, drain_summary, up_summary
from llmfleet.cli.workspace import load_fleet
from llmfleet.launch import drain as operation
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.results import CapacityLeft
from llmfleet.planner.errors import StateError


def drain(
    node: NodeArgument,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long running requests may take.")] = 600,
    force: Annotated[bool, typer.Option("--force", help="Cut off requests that still run after the timeout.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Also where a service is left without an instance.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a node out of rotation without losing a request.

    New requests go elsewhere, running ones finish, then the node's instances stop. Says first what capacity is left.

    \b
    Examples:
      llmfleet drain a800-0                        wait up to ten minutes for running requests
      llmfleet drain a800-0 --timeout 60 --force   cut off what still runs after a minute
    """
    next_step = f"Run `llmfleet drain {node}` again to go on, or `llmfleet undrain {node}` to put it back."
    with interruptible(next_step):
        fleet = load_fleet(inventory, plain_progress(quiet=quiet))
        fleet.inventory.node(node)  # raises for a name that nobody knows
        left = _left_without(fleet, node)
        if not quiet:
            typer.echo(f"Without {node}:\n{capacity(left)}", err=True)
        _confirm(node, left, yes=yes, as_json=as_json)
        with progress(quiet=quiet) as observe:
            report = operation.drain(replace(fleet, observe=observe), node, timeout_s=timeout, force=force)
    if as_json:
        echo_json(report)
    elif not quiet:
        typer.echo(drain_summary(report))


def undrain(
    node: NodeArgument,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put a drained node back to work.

    Starts what the plan has on it; the router sends requests once its instances are healthy.

    \b
    Example:
      llmfleet undrain a800-0
    """
    next_step = f"Run `llmfleet undrain {node}` again to go on, or `llmfleet drain {node}` to take it out."
    with interruptible(next_step), progress(quiet=quiet) as observe:
        fleet = load_fleet(inventory, observe, plan_must_match=True)
        fleet.inventory.node(node)  # raises for a name that nobody knows
        report = operation.undrain(fleet, node)
    if as_json:
        echo_json(report)
    elif not quiet:
        typer.echo(up_summary(report, fleet.plan))


def _left_without(fleet: Fleet, node: str) -> tuple[CapacityLeft, ...]:
    out = StateStore(fleet.folder, fleet.inventory.cluster).value.out_of_rotation
    return operation.capacity_left(fleet.plan, out | {node})


def _confirm(node: str, left: tuple[CapacityLeft, ...], *, yes: bool, as_json: bool) -> None:
    """A person is asked, a script is told to say --yes, before a service stands without any instance."""
    bare = [c.service for c in left if c.instances_total and not c.instances_left]
    if not bare or yes:
        return
    what = f"without {node} no instance of {', '.join(bare)} is left"
    if as_json or not may_ask():
        raise StateError(what, hint="Say --yes if that is meant.")
    typer.confirm(f"{what[0].upper()}{what[1:]}. Drain it?", abort=True, err=True)
