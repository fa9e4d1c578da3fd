"""llmfleet doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, Quiet, complete_inventory_nodes
from llmfleet.cli.output import console, echo_json
from llmfleet.cli.progress import looking
from llmfleet.cli.render.doctor import render_doctor
from llmfleet.cli.workspace import load_fleet, plan_path, read_inventory, workspace_folder
from llmfleet.launch.doctor import examine as operation
from llmfleet.launch.events import Note, Observer
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.record.state import Runtime

if TYPE_CHECKING:
    from llmfleet.planner.inventory.model import Node

FAILED, UNREACHABLE = 1, 3
LEFT_OUT = "left out are engines, router, weights, ports, and whether GPUs, memory and disk are enough for them"


def doctor(
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE…]", help="Only these.", autocompletion=complete_inventory_nodes)
    ] = None,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    everything: Annotated[
        bool, typer.Option("--all", help="Every node of the inventory, also those that the plan leaves out.")
    ] = False,
    runtime: Annotated[
        Runtime | None,
        typer.Option("--runtime", help="What `up` with this option would check. Left out: as it is up."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also the checks that passed.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check every node before anything changes.

    Changes nothing. What up checks first is this; without a plan, what needs none is checked. Exits 1 when a check
    failed, 3 when a node could not be reached; warnings are fine. --quiet only sets the exit code.

    \b
    Examples:
      llmfleet doctor                  every node of the plan
      llmfleet doctor a800-0 --verbose
      llmfleet doctor --runtime ray-serve   before the first `up` with it
      llmfleet doctor --all --json | jq '.nodes[] | {name, bad: [.results[] | select(.status == "fail")]}'
    """
    with looking(quiet=quiet) as observe:
        fleet = _fleet(inventory, observe)
        report = operation.examine(fleet, _chosen(fleet, nodes or [], everything=everything), runtime)
    if as_json:
        echo_json(report)
    elif not quiet:
        then = _next(fleet, inventory, runtime)
        console(least=0).print(render_doctor(report, fleet.inventory.cluster, verbose=verbose, then=then))
    return UNREACHABLE if report.unreachable else 0 if report.ok else FAILED


def _fleet(inventory: Path, observe: Observer) -> Fleet:
    if plan_path(inventory).exists():
        return load_fleet(inventory, observe)
    read = read_inventory(inventory, nodes_only=True)
    lacks = "has no plan yet" if read.services else "names no services, and has no plan yet"
    observe(Note("", f"{inventory} {lacks}: {LEFT_OUT}", "warning"))
    return Fleet(read, operation.without_plan(read), workspace_folder(inventory), observe)


def _next(fleet: Fleet, inventory: Path, runtime: Runtime | None) -> str:
    if not fleet.plan.instances:
        return f"{'' if fleet.inventory.services else 'fill in `services`, then '}llmfleet plan {inventory}"
    up = f"llmfleet up --runtime {runtime}" if runtime else "llmfleet up"
    return f"{up} --dry-run · {up}"


def _chosen(fleet: Fleet, names: list[str], *, everything: bool) -> list[Node]:
    if names:
        return [fleet.inventory.node(name) for name in dict.fromkeys(names)]  # raises for a name that nobody knows
    if everything or not fleet.plan.instances:
        return [n for n in fleet.inventory.nodes if not n.exclude]
    return list(fleet.planned_nodes())
