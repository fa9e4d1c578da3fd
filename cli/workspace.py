"""The inventory a command was pointed at, and the folder beside it that keeps plan, state and lock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmfleet.planner.errors import InputError, InventoryError, StateError, UnknownNameError

if TYPE_CHECKING:
    from llmfleet.launch.events import Observer
    from llmfleet.launch.fleet import Fleet
    from llmfleet.planner.inventory.model import Inventory
    from llmfleet.planner.plan import Plan

FOLDER = ".llmfleet"


def workspace_folder(inventory: Path) -> Path:
    return inventory.resolve().parent / FOLDER


def plan_path(inventory: Path) -> Path:
    return workspace_folder(inventory) / "plan.json"


def load_fleet(inventory_path: Path, observe: Observer, *, plan_must_match: bool = False) -> Fleet:
    """The fleet as inventory and plan describe it. What changes the fleet to the plan wants a plan of this inventory;
    what looks at it or stops it also works with an older one."""
    from llmfleet.launch.events import Note
    from llmfleet.launch.fleet import Fleet
    from llmfleet.planner.inventory.digest import inventory_hash

    inventory = read_inventory(inventory_path)
    plan = read_plan(plan_path(inventory_path), inventory_path)
    if plan.inventory_hash != inventory_hash(inventory):
        stale = f"{inventory_path} has changed since plan {plan.hash[:6]} was made from it"
        if plan_must_match or plan.cluster != inventory.cluster:
            raise StateError(stale, hint=f"Plan again: llmfleet plan {inventory_path}")
        observe(Note("", f"{stale}; this shows the plan that was made then", "warning"))
    return Fleet(inventory, plan, workspace_folder(inventory_path), observe)


def load_applied(inventory_path: Path, wanted: str, observe: Observer) -> Fleet:
    """The fleet as it was when that plan was put in place: by the beginning of its hash, or by its file."""
    from llmfleet.launch.fleet import Fleet
    from llmfleet.launch.record.applied import find_applied

    folder = workspace_folder(inventory_path)
    found = find_applied(folder, wanted)
    cluster = read_inventory(inventory_path).cluster
    if found.plan.cluster != cluster:
        raise StateError(f'plan {found.plan.hash[:6]} is of cluster "{found.plan.cluster}", not of "{cluster}"')
    return Fleet(found.inventory, found.plan, folder, observe)


def read_inventory(path: Path, *, nodes_only: bool = False) -> Inventory:
    """`nodes_only`: for commands that want to know the nodes, services may still be missing."""
    return parse_inventory(read_input(path), path, nodes_only=nodes_only)


def parse_inventory(text: bytes, path: Path, *, nodes_only: bool = False) -> Inventory:
    """`path`: where the text lies, or is to lie."""
    from llmfleet.planner.inventory.parse import parse

    try:  # warnings become part of the plan, and with it of its hash: they name the file wherever it lies
        inventory = parse(text, path.name, known_gpu=_known_gpu, nodes_only=nodes_only)
    except InventoryError as error:
        raise InventoryError([replace(problem, file=str(path)) for problem in error.problems]) from None
    if nodes_only or not any(s.traffic and s.traffic.trace for s in inventory.services):
        return inventory
    from llmfleet.launch.traffic_files import with_traces

    return with_traces(inventory, path, text)


def _known_gpu(name: str) -> tuple[bool, tuple[str, ...]]:
    from llmfleet.planner.catalog import catalog

    try:
        catalog().gpu(name)
    except UnknownNameError as unknown:
        return False, unknown.nearest
    return True, ()


def read_input(path: Path) -> bytes:
    """An inventory's bytes. Raises InputError where there is no readable file."""
    from llmfleet.launch.named_files import open_named
    from llmfleet.planner.inventory.source import MOST_BYTES

    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not an inventory", hint=f"Name the file: {path / 'inventory.yaml'}")
        with open_named(path) as file:
            return file.read(MOST_BYTES + 1)  # the parser refuses what is longer
    except FileNotFoundError:
        raise InputError(
            f"there is no inventory at {path}",
            hint="Write one with llmfleet init (inventory.example.yaml shows every key), or name it: --inventory FILE",
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", hint="Check the path and its permissions."
        ) from None


def read_plan(path: Path, inventory: Path) -> Plan:
    from pydantic import ValidationError

    from llmfleet.planner.plan import from_json, sealed

    try:
        plan = from_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{inventory} has no plan yet", hint=f"Make one: llmfleet plan {inventory}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="Check its permissions.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} is not a plan: {where + ': ' if where else ''}{first['msg']}",
            hint=f"Make it anew: llmfleet plan {inventory}",
        ) from None
    if sealed(plan).hash != plan.hash:
        raise InputError(
            f"{path} was edited by hand: its hash no longer fits its content",
            hint=f"Change {inventory} instead (services[].placement fixes instances), then: llmfleet plan {inventory}",
        )
    return plan
