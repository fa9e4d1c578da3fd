"""llmfleet upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from llmfleet.cli.interrupt import interruptible
from llmfleet.cli.options import DEFAULT_INVENTORY, DryRun, InventoryOption, Json, Quiet, complete_inventory_nodes
from llmfleet.cli.output import echo_json, may_ask
from llmfleet.cli.plan import plan_of, write_plan
from llmfleet.cli.progress import progress
from llmfleet.cli.render.steps import to_do, up_summary
from llmfleet.cli.up import DrainTimeout, Force, MaxUnavailable
from llmfleet.cli.workspace import parse_inventory, plan_path, read_input, workspace_folder
from llmfleet.launch import up as operation
from llmfleet.launch.events import Observer
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.record.state import write_atomically
from llmfleet.launch.upgrade import Edited, Wish, upgraded
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.figures import EngineName
from llmfleet.planner.near import nearest


def upgrade(
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="vllm, llama.cpp, …")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As its releases are numbered.")],
    inventory: InventoryOption = DEFAULT_INVENTORY,
    python: Annotated[
        str | None, typer.Option("--python", metavar="PATH", help="The Python whose environment has it, on the nodes.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="The image that has it.")] = None,
    llama_server: Annotated[
        str | None, typer.Option("--llama-server", metavar="PATH", help="llama.cpp's own llama-server, on the nodes.")
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NODE", help="Only there; may be repeated.", autocompletion=complete_inventory_nodes
        ),
    ] = None,
    dry_run: DryRun = False,
    max_unavailable: MaxUnavailable = "1",
    drain_timeout: DrainTimeout = 600,
    force: Force = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Roll another engine version out, as up rolls any change of plan.

    Install it first, beside the old one, and name its place with --python, --image or --llama-server. Writes the
    version into inventory.yaml (`runtime: {versions: …}`), plans, shows both changes, and rolls node by node. Nodes
    whose entry names a version of its own keep it, unless --node names them.

    \b
    Examples:
      llmfleet upgrade vllm 0.33.0 --python /opt/vllm-0.33.0/bin/python
      llmfleet upgrade vllm 0.33.0 --image mirror.example/vllm:v0.33.0 --max-unavailable 25%
      llmfleet upgrade vllm 0.33.0 --node a800-0 --dry-run
    """
    if engine not in get_args(EngineName):
        raise UnknownNameError("engine", engine, nearest(engine, get_args(EngineName)), known=get_args(EngineName))
    _one_place({"--python": python, "--image": image, "--llama-server": llama_server}, engine)
    wish = Wish(engine, version, python, image, llama_server, tuple(node or ()))  # type: ignore[arg-type]  # checked above
    options = operation.UpOptions(dry_run, max_unavailable=max_unavailable, drain_timeout_s=drain_timeout, force=force)
    edited = upgraded(read_input(inventory).decode(), wish, inventory.name)
    if edited.text == edited.before:
        raise InputError(f"{inventory} has {engine} {version} already", hint="`llmfleet up` puts it in place.")
    next_step = "The inventory has the new version: `llmfleet up` goes on, `llmfleet up --plan HASH` goes back."
    with interruptible(next_step):
        _show(edited, inventory, quiet=quiet)
        if not (dry_run or yes or as_json) and may_ask():
            typer.confirm("Write that, plan and roll it out?", abort=True, err=True)
        with progress(quiet=quiet, dry_run=dry_run) as observe:
            fleet = _planned(edited, inventory, observe, write=not dry_run)
            report = operation.up(fleet, options)
    if as_json:
        echo_json(report)
    elif dry_run:
        typer.echo(to_do(report.changed))
    elif not quiet:
        typer.echo(up_summary(report, fleet.plan))


def _one_place(given: dict[str, str | None], engine: str) -> None:
    """An engine lies in one of them on a node: the others would be set for nothing, or for nodes that lack them."""
    named = [option for option, place in given.items() if place]
    if len(named) > 1:
        hint = "Upgrade nodes of each kind by themselves, with --node."
        raise InputError(f"{' and '.join(named)}: an engine lies in one place on a node", hint=hint)
    if named == ["--llama-server"] and engine != "llama.cpp":
        raise InputError(f"--llama-server is llama.cpp's, not {engine}'s", hint="Name its Python, or its image.")


def _show(edited: Edited, inventory: Path, *, quiet: bool) -> None:
    if quiet:
        return
    typer.echo(edited.diff(str(inventory)), err=True)
    for version in sorted(set(edited.kept.values())):
        names = ", ".join(name for name, own in edited.kept.items() if own == version)
        typer.echo(f"{names} keep {version}, which their own entry names", err=True)


def _planned(edited: Edited, inventory: Path, observe: Observer, *, write: bool) -> Fleet:
    """The fleet with the new version. Written only once it has a plan."""
    changed = parse_inventory(edited.text.encode(), inventory)
    made = plan_of(changed, inventory)
    if write:
        mode = inventory.stat().st_mode & 0o777
        write_atomically(inventory.resolve(), edited.text.encode())
        inventory.chmod(mode)
        write_plan(made, plan_path(inventory))
    return Fleet(changed, made, workspace_folder(inventory), observe)
