"""llmfleet up."""

from __future__ import annotations

from typing import Annotated

import typer

from llmfleet.cli.interrupt import interruptible
from llmfleet.cli.options import DEFAULT_INVENTORY, DryRun, InventoryOption, Json, Quiet, complete_plans
from llmfleet.cli.output import echo_json
from llmfleet.cli.plan import write_plan
from llmfleet.cli.progress import progress
from llmfleet.cli.render.steps import to_do, up_summary
from llmfleet.cli.workspace import load_applied, load_fleet, plan_path
from llmfleet.launch import up as operation
from llmfleet.launch.record.state import Runtime

MaxUnavailable = Annotated[
    str,
    typer.Option("--max-unavailable", metavar="N|%", help="Nodes out of rotation at once while engines are replaced."),
]
DrainTimeout = Annotated[
    float, typer.Option("--drain-timeout", min=0, metavar="SECONDS", help="How long running requests may take.")
]
Force = Annotated[bool, typer.Option("--force", help="Cut off requests that still run after the drain timeout.")]


def up(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan", metavar="HASH", help="A plan that was up before, to go back to it.", autocompletion=complete_plans
        ),
    ] = None,
    dry_run: DryRun = False,
    max_unavailable: MaxUnavailable = "1",
    drain_timeout: DrainTimeout = 600,
    force: Force = False,
    runtime: Annotated[
        Runtime | None,
        typer.Option("--runtime", help="Engines each by itself, or as replicas of Ray Serve. Left out: as it is up."),
    ] = None,
    skip_unreachable: Annotated[
        bool, typer.Option("--skip-unreachable", help="Go on without nodes that cannot be reached; exits 3.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the fleet match the plan.

    Does only what is missing: a second run does nothing, and a run that was killed is gone on with.
    Where another plan is up, it rolls: what is new starts first where GPUs are free for it; otherwise node by node,
    running requests finish, the old engine stops, the new one starts and is seen healthy before the next node.

    \b
    Examples:
      llmfleet up --dry-run               what would be done, node by node
      llmfleet up                         do it
      llmfleet up --max-unavailable 25%   a quarter of the nodes at once
      llmfleet up --plan 7f3a9c           back to a plan that was up before
      llmfleet up --skip-unreachable      start what can be started while a node is away
      llmfleet up --runtime ray-serve     as an application of Ray Serve, on a Ray cluster of its own
    """
    again = "llmfleet up" if plan is None else f"llmfleet up --plan {plan}"
    options = operation.UpOptions(dry_run, skip_unreachable, max_unavailable, drain_timeout, force, again, runtime)
    next_step = "What was started is recorded: run `llmfleet up` again to go on, or `llmfleet down` to stop it."
    with interruptible(next_step), progress(quiet=quiet, dry_run=dry_run) as observe:
        if plan is None:
            fleet = load_fleet(inventory, observe, plan_must_match=True)
        else:
            fleet = load_applied(inventory, plan, observe)
        report = operation.up(fleet, options)
        if plan is not None and not dry_run:
            write_plan(fleet.plan, plan_path(inventory))
    if as_json:
        echo_json(report)
    elif dry_run:
        typer.echo(to_do(report.changed))
    elif not quiet:
        typer.echo(up_summary(report, fleet.plan))
