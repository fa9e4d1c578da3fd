"""llmfleet export: the same plan for other worlds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, Quiet
from llmfleet.cli.output import counted, echo_json, write_file
from llmfleet.cli.printable import colours
from llmfleet.cli.progress import looking, plain_progress
from llmfleet.cli.workspace import load_fleet
from llmfleet.launch.export.kinds import Export
from llmfleet.launch.export.kubernetes import kubernetes as exported
from llmfleet.launch.export.kubernetes import secret
from llmfleet.launch.export.ray_serve import FOLDER
from llmfleet.launch.export.ray_serve import ray_serve as as_application
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.phases.router import client_keys
from llmfleet.planner.errors import InputError

WORKING = "writing the plan down …"

app = typer.Typer(
    help="Write the plan for Kubernetes or for Ray Serve.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.callback()
def export() -> None:
    """Write the plan for Kubernetes or for Ray Serve."""


@app.command()
def kubernetes(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.")] = Path("kubernetes"),
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="The cluster's name if left out.")
    ] = None,
    claim: Annotated[
        str | None,
        typer.Option(
            "--weights-claim",
            metavar="CLAIM",
            help="A PersistentVolumeClaim with models_dir, copied to each node once; paths on the nodes if left out.",
        ),
    ] = None,
    ray_image: Annotated[
        str | None,
        typer.Option(
            "--ray-image",
            metavar="IMAGE",
            help="Run in Ray under KubeRay what Ray can run, in this image or the class's own; no Ray if left out.",
        ),
    ] = None,
    print_secret: Annotated[
        bool, typer.Option("--print-secret", help="Print the Secret with clients' keys, for kubectl; write no file.")
    ] = False,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write manifests and a kustomization: engines as planned, Envoy in front with the same configuration.

    Touches no node and no cluster. Says what of the plan Kubernetes does not keep. Equal plans give equal files.

    \b
    Examples:
      llmfleet export kubernetes                      into ./kubernetes
      kubectl apply -k kubernetes
      llmfleet export kubernetes --weights-claim models --namespace rag
      llmfleet export kubernetes --ray-image registry.example/vllm-ray:0.33.0
      llmfleet export kubernetes --print-secret | kubectl apply -f -
    """
    if print_secret:
        _print_secret(load_fleet(inventory, plain_progress(quiet=quiet), plan_must_match=True), namespace)
        return
    with looking(quiet=quiet, doing=WORKING) as observe:
        fleet = load_fleet(inventory, observe, plan_must_match=True)
        made = exported(fleet.inventory, fleet.plan, namespace=namespace, claim=claim, ray_image=ray_image)
    then = (f"kubectl diff -k {out}", f"kubectl apply -k {out}")
    _write(replace(made, then=then), out, "Kubernetes", as_json=as_json, quiet=quiet)


@app.command("ray-serve")
def ray_serve(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.")] = Path("ray-serve"),
    folder: Annotated[
        str, typer.Option("--folder", metavar="PATH", help="Where they will be on every node; absolute.")
    ] = FOLDER,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an application for Ray Serve, its config, and Envoy's configuration for in front of it.

    Touches no node. Says what of the plan Ray Serve does not keep. Equal plans give equal files.

    \b
    Examples:
      llmfleet export ray-serve                       into ./ray-serve
      serve run --non-blocking --address HEAD:6379 ray-serve/serve.yaml
    """
    if not folder.startswith("/"):
        raise InputError(f"--folder {folder} is not absolute", hint=f"Left out: {FOLDER}.")
    with looking(quiet=quiet, doing=WORKING) as observe:
        fleet = load_fleet(inventory, observe, plan_must_match=True)
        made = as_application(fleet.inventory, fleet.plan, folder=folder)
    _write(made, out, "Ray Serve", as_json=as_json, quiet=quiet)


def _write(made: Export, out: Path, world: str, *, as_json: bool, quiet: bool) -> None:
    for name, text in made.files.items():
        write_file(out / name, text, "--out FOLDER")
    if as_json:
        lists = {"files": [*made.files], "lost": [*made.lost], "before": [*made.before], "then": [*made.then]}
        echo_json({"folder": str(out), **lists})
    elif not quiet:
        _say(made, out, world)


def _print_secret(fleet: Fleet, namespace: str | None) -> None:
    keys = client_keys(fleet)
    if keys is None:
        raise InputError(
            "the inventory asks clients for no keys: there is no secret", hint="router: {keys_file: …} names a file"
        )
    typer.echo(secret(fleet.inventory, fleet.plan, keys, namespace=namespace), nl=False)


def _say(made: Export, folder: Path, world: str) -> None:
    typer.echo(f"{counted(len(made.files), 'file')} in {folder}")
    others = sorted(p.name for p in folder.glob("*.yaml") if p.name not in made.files)
    if others:
        typer.echo(f"Not of this plan: {', '.join(others)}")
    typer.secho(f"\nWhat {world} does not keep of the plan", bold=True, color=colours())
    for each in made.lost:
        typer.echo(f"  {each}")
    if made.before:
        typer.secho("\nBefore", bold=True, color=colours())
        for command in made.before:
            typer.echo(f"  {command}")
    typer.echo(f"\nnext: {' · '.join(made.then)}")
