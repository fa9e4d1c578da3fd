"""Options and arguments that several commands share, and the completion of their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmfleet.cli.workspace import plan_path

DEFAULT_INVENTORY = Path("inventory.yaml")

InventoryOption = Annotated[
    Path, typer.Option("--inventory", "-i", metavar="FILE", help="The fleet's inventory; .llmfleet/ lies beside it.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; progress goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be done; change nothing.")]


def _planned_instances(context: typer.Context) -> list[dict[str, object]]:
    """From plan.json as plain JSON: a key press must not wait for a plan to be validated."""
    path = plan_path(Path(context.params.get("inventory") or DEFAULT_INVENTORY))
    try:
        found = json.loads(path.read_bytes())["instances"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [i for i in found if isinstance(i, dict)] if isinstance(found, list) else []


def complete_instances(ctx: typer.Context, incomplete: str) -> list[str]:
    names = [str(i.get("id", "")) for i in _planned_instances(ctx)]
    return [n for n in names if n.startswith(incomplete)]


def complete_nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    nodes = [i.get("nodes") for i in _planned_instances(ctx)]
    names = {str(n) for group in nodes if isinstance(group, list) for n in group}
    return sorted(n for n in names if n.startswith(incomplete))


def complete_plans(ctx: typer.Context, incomplete: str) -> list[str]:
    """Plans that were put in place, newest first."""
    from llmfleet.cli.workspace import workspace_folder

    folder = workspace_folder(Path(ctx.params.get("inventory") or DEFAULT_INVENTORY)) / "plans"
    found = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True) if folder.is_dir() else []
    return [p.stem for p in found if p.stem.startswith(incomplete)]


def complete_inventory_nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Also before there is a plan: names as the inventory's text has them, ranges expanded, nothing else checked."""
    import yaml

    from llmfleet.planner.inventory.ranges import expand

    path = Path(ctx.params.get("inventory") or DEFAULT_INVENTORY)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["nodes"]
        names = [name for entry in entries for name in expand(str(entry["name"]))]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []
    return [n for n in names if n.startswith(incomplete)]


NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Its name.", autocompletion=complete_nodes)]
InstanceArgument = Annotated[
    str, typer.Argument(metavar="INSTANCE", help="Its id in the plan.", autocompletion=complete_instances)
]
