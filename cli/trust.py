"""llmfleet trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, Quiet, complete_inventory_nodes
from llmfleet.cli.output import counted, echo_json, may_ask
from llmfleet.cli.workspace import read_inventory
from llmfleet.planner.errors import FleetError, HostKeyError, InputError, NodesError
from llmfleet.planner.inventory.model import Access

if TYPE_CHECKING:
    from llmfleet.launch.transport.trust import Review, Target
    from llmfleet.planner.inventory.model import Inventory

SAID = {"known": "known already", "new": "new", "changed": "CHANGED", "revoked": "REVOKED"}


def trust(
    nodes: Annotated[
        list[str], typer.Argument(metavar="NODE…", help="Or jump hosts.", autocompletion=complete_inventory_nodes)
    ],
    inventory: InventoryOption = DEFAULT_INVENTORY,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: the network is trusted right now.")] = False,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="SHA256:…", help="Store this key of the one node, no other.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also where known_hosts has another key.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show host keys and store them in known_hosts.

    Asks each server for its keys of every type and shows their fingerprints beside what known_hosts has. A key that
    changed is refused without --replace. A host that the inventory does not have is asked with ssh's own settings.

    \b
    Examples:
      llmfleet trust a800-0 a800-1      compare with the machines' own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
      llmfleet trust a800-0 --fingerprint SHA256:uNiVztksCsDhcc0u9e8BrG…
      llmfleet trust a800-0 --replace   it was reinstalled
    """
    if fingerprint and len(nodes) > 1:
        raise InputError("a fingerprint is that of one machine", hint="Name one node with --fingerprint.")
    reviews, errors = _reviews(_targets(inventory, nodes))
    stored = []
    for found in reviews:
        try:
            stored.append(_settle(found, fingerprint, yes=yes, replace=replace, show=not (as_json or quiet)))
        except HostKeyError as error:
            errors.append(error)
    if as_json and not errors:
        echo_json({"nodes": stored})
    if errors:
        raise errors[0] if len(nodes) == 1 else NodesError("trust", errors)


def _targets(path: Path, names: list[str]) -> list[Target]:
    inventory = read_inventory(path, nodes_only=True) if path.exists() else None
    return [_target(inventory, name) for name in dict.fromkeys(names)]


def _target(inventory: Inventory | None, name: str) -> Target:
    from llmfleet.launch.transport.trust import Target

    for node in inventory.nodes if inventory else ():
        if node.name == name and node.access.transport != "ssh":
            what = f'"{name}" is reached by `transport: {node.access.transport}`, which has no host key'
            raise InputError(what, hint="Nothing is to be trusted there.")
        if node.name == name:
            return Target(name, node.host, node.access)
        if name in (node.access.jump or "").split(","):
            return Target(name, name, Access(known_hosts=node.access.known_hosts))
    if inventory:
        typer.echo(f"{name} is no node of the inventory: taken as a host", err=True)
    return Target(name, name, Access())


def _reviews(targets: list[Target]) -> tuple[list[Review], list[FleetError]]:
    from llmfleet.launch.pool import on_each
    from llmfleet.launch.transport.trust import review

    outcomes = on_each(targets, review)
    return [o.value for o in outcomes if o.value], [o.error for o in outcomes if o.error]


def _settle(found: Review, fingerprint: str | None, *, yes: bool, replace: bool, show: bool) -> dict[str, object]:
    """Shows, asks and stores; what became of one node, as JSON."""
    from llmfleet.launch.transport.trust import demanded, refuse, store

    chosen = demanded(found, fingerprint) if fingerprint else found
    if show:
        typer.echo(shown(chosen))
    refuse(chosen, replace=replace)
    todo = chosen.of("new", "changed")
    if todo and not (yes or fingerprint):
        if not (show and may_ask()):
            what = f"nobody is here to compare the fingerprints of {found.target.name}"
            raise InputError(what, hint="Say --fingerprint SHA256:… (safe), or --yes where the network is trusted.")
        typer.confirm(f"Store {counted(len(todo), 'key')} in {found.known_hosts}?", abort=True, err=True)
    added = store(chosen, replace=replace)
    if show:
        typer.echo(f"  {counted(len(added), 'key')} stored in {found.known_hosts}" if added else "  nothing to store")
    keys = [{"type": k.key.type, "fingerprint": k.key.fingerprint.split()[1], "state": k.state} for k in chosen.keys]
    return {"node": found.target.name, "name": found.name, "keys": keys, "stored": [k.type for k in added]}


def shown(found: Review) -> str:
    lines = [f"{found.target.name} ({found.name})"]
    for each in found.keys:
        kind, digest = each.key.fingerprint.split()
        lines.append(f"  {kind:20} {digest}  {SAID[each.state]}")
        if each.old:
            old_kind, old_digest = each.old.fingerprint.split()
            lines.append(f"  {old_kind:20} {old_digest}  until now, {found.known_hosts}:{each.line}")
    return "\n".join(lines)
