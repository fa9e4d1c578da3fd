"""llmfleet router show, diff, metrics, reload and restart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmfleet.cli.interrupt import interruptible
from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, Quiet
from llmfleet.cli.output import counted, echo_json
from llmfleet.cli.printable import colours, printable
from llmfleet.cli.progress import plain_progress, progress
from llmfleet.cli.workspace import load_fleet
from llmfleet.launch import router_view as operation
from llmfleet.launch.router_restart import router_restart
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.near import nearest

Form = Literal["envoy", "vllm-router", "ray-serve", "haproxy", "nginx", "litellm", "llm-d"]

app = typer.Typer(
    help="Show, compare or reload the router's configuration; restart it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.callback()
def router() -> None:
    """Show, compare or reload the router's configuration; restart it."""


@app.command()
def show(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Only this one.")] = None,
    form: Annotated[Form, typer.Option("--format", help="For another router; what is lost, on stderr.")] = "envoy",
    node: Annotated[str | None, typer.Option("--node", help="Of the router there, if several nodes have one.")] = None,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the files that the plan gives the router. Touches no node.

    \b
    Examples:
      llmfleet router show
      llmfleet router show bootstrap.yaml
      llmfleet router show keepalived.conf --node node-2
      llmfleet router show --format haproxy > haproxy.cfg
    """
    if form != "envoy":
        _show_export(form, inventory, as_json=as_json, quiet=quiet)
        return
    files = dict(operation.router_show(load_fleet(inventory, plain_progress(quiet=quiet)), node))
    if file is not None and file not in files:
        raise UnknownNameError(
            "file of the router", file, nearest(file, files), hint="`llmfleet router show` prints all."
        )
    chosen = files if file is None else {file: files[file]}
    if as_json:
        echo_json(chosen)
        return
    for name, text in chosen.items():
        if file is None:
            typer.secho(f"# {name}", bold=True, color=colours())
        typer.echo(text)


def _show_export(form: str, inventory: Path, *, as_json: bool, quiet: bool) -> None:
    made = operation.router_export(load_fleet(inventory, plain_progress(quiet=quiet)), form)
    if as_json:
        echo_json({"format": form, "text": made.text, "dropped": made.dropped})
        return
    typer.echo(made.text, nl=False)
    for line in made.dropped if not quiet else ():
        typer.echo(f"dropped: {line}", err=True)


@app.command()
def diff(inventory: InventoryOption = DEFAULT_INVENTORY, as_json: Json = False, quiet: Quiet = False) -> None:
    """Print what reload would change, as a unified diff. Keys of clients are masked.

    \b
    Example:
      llmfleet router diff
    """
    with progress(quiet=quiet) as observe:
        changes = operation.router_diff(load_fleet(inventory, observe, plan_must_match=True))
    if as_json:
        echo_json(dict(changes))
    elif changes:
        typer.echo(printable("\n".join(changes.values())))
    elif not quiet:
        typer.echo("Nothing would change.")


@app.command()
def metrics(
    form: Annotated[Literal["prometheus", "grafana"], typer.Option("--format", help="What to print.")] = "prometheus",
    inventory: InventoryOption = DEFAULT_INVENTORY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a Prometheus configuration or a Grafana dashboard of the plan. Touches no node.

    \b
    Examples:
      llmfleet router metrics > prometheus.yml
      llmfleet router metrics --format grafana > dashboard.json
    """
    text = operation.router_metrics(load_fleet(inventory, plain_progress(quiet=quiet)), form)
    if as_json:
        echo_json({"format": form, "text": text})
    else:
        typer.echo(text, nl=False)


@app.command()
def reload(inventory: InventoryOption = DEFAULT_INVENTORY, as_json: Json = False, quiet: Quiet = False) -> None:
    """Write the router's files anew where they differ. Running streams go on.

    \b
    Example:
      llmfleet router reload
    """
    with interruptible("Each file is old or new, never half: run it again."), progress(quiet=quiet) as observe:
        report = operation.router_reload(load_fleet(inventory, observe, plan_must_match=True))
    if as_json:
        echo_json(report)
    elif not quiet:
        typer.echo(f"{counted(len(report.changed), 'file')} written." if report.changed else "Nothing to do.")


@app.command()
def restart(inventory: InventoryOption = DEFAULT_INVENTORY, as_json: Json = False, quiet: Quiet = False) -> None:
    """Replace the router's process, after an upgrade of Envoy. No request is lost, running streams go on.

    \b
    Example:
      llmfleet router restart
    """
    with interruptible("The router runs, old or new: run it again."), progress(quiet=quiet) as observe:
        report = router_restart(load_fleet(inventory, observe, plan_must_match=True))
    if as_json:
        echo_json(report)
    elif not quiet:
        typer.echo(f"A new router process took over at {report.address}.")
