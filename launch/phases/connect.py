"""Reaching every planned node, and learning by which address the others reach it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from llmfleet.launch.pool import raise_failures
from llmfleet.launch.session import Session
from llmfleet.launch.transport.ssh_config import host_name
from llmfleet.planner.errors import CommandError, FleetError, NodesError, StateError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.ports import address_of

PATIENCE_S = 20.0  # an sshd that starts anew, a firewall that is loaded again
LEFT_EXCLUDED = "excluded in the inventory, so what was started there is left alone"
LEFT_AWAY = "the plan no longer uses it, but what was started there could not be stopped"
ADDRESS_HINT = "Give the node `address:`, an IP address, or a name that the head node resolves, that all nodes reach."


def connect(session: Session, *, skip_unreachable: bool = False) -> list[str]:
    """Names of the nodes that take part: planned, not drained, reached. The head must be one of them.

    Raises NodesError naming every node that could not be reached, unless they are to be skipped.
    """
    reach_head(session)
    nodes = active_nodes(session)
    outcomes = session.connect(nodes, patience_s=PATIENCE_S)
    if not skip_unreachable:
        raise_failures("connect", outcomes)
    resolve_addresses(session, session.fleet.planned_nodes())
    return [n.name for n in session.reached(nodes)]


def connect_left(session: Session) -> list[str]:
    """Nodes that the plan no longer has, with processes of ours on record. One that is away stops nobody."""
    planned = {n.name for n in session.fleet.planned_nodes()}
    names = sorted({r.node for r in session.store.value.processes.values()} - planned)
    left = [session.node(name) for name in names]
    for node in left:
        if node.exclude:
            session.note(LEFT_EXCLUDED, node=node.name, level="warning")
    wanted = [n for n in left if not n.exclude]
    for outcome in session.connect(wanted):
        if outcome.error is not None:
            session.lost.pop(outcome.item.name, None)
            session.note(f"{LEFT_AWAY}: {outcome.error.message}", node=outcome.item.name, level="warning")
    here = session.reached(wanted)
    for node in here:
        try:
            resolve_addresses(session, [node])
        except FleetError as error:  # the router forgets it, that is all
            session.note(error.message, node=node.name, level="warning")
    return [n.name for n in here]


def reach_head(session: Session) -> None:
    """The head carries the router, the lock and the copy of the state: without it nothing can be changed."""
    head = session.node(session.fleet.plan.head)
    raise_failures("connect to the head", session.connect([head], patience_s=PATIENCE_S))
    session.lock_head()
    session.adopt_state_from_head()


def check_up(session: Session) -> None:
    """The router's files are made from the plan: one that was never put in place would send requests nowhere."""
    state, plan = session.store.value, session.fleet.plan
    if not state.processes:
        raise StateError("nothing is up in this fleet", hint="`llmfleet up` starts it.")
    if state.changing and state.plan_hash == plan.hash:
        raise StateError(
            f"the change from plan {state.previous_plan[:6]} to {plan.hash[:6]} has not come to its end",
            hint=f"`llmfleet up` goes on, `llmfleet up --plan {state.previous_plan[:6]}` goes back.",
        )
    if state.plan_hash == plan.hash:
        return
    if state.previous_plan == plan.hash:
        raise StateError(
            f"plan {state.plan_hash[:6]} is up, and plan.json here is still the one before it, {plan.hash[:6]}",
            hint="Was it put in place from another machine? Take inventory.yaml over from there, and plan. "
            "`llmfleet up` goes back to the one before.",
        )
    raise StateError(
        f"plan {state.plan_hash[:6]} is up, but there is a newer one, {plan.hash[:6]}",
        hint="`llmfleet up` puts it in place.",
    )


def active_nodes(session: Session) -> list[Node]:
    """Planned nodes that are not out of rotation. Those of routers stay: these go on."""
    routers, out = session.fleet.plan.router.nodes, session.store.value.out_of_rotation
    return [n for n in session.fleet.planned_nodes() if n.name not in out or n.name in routers]


def resolve_addresses(session: Session, nodes: Iterable[Node]) -> None:
    """Router and engines need IP addresses, also of nodes that are away: the router keeps their places.

    Names are resolved on the head, since that is who will connect; one that only ssh_config knows, by what it
    stands for there. Raises NodesError with all that have no address.
    """
    errors: list[FleetError] = []
    for node in nodes:
        try:
            session.addresses[node.name] = _resolved(session, node)
        except CommandError as error:
            errors.append(error)
    if errors:
        raise NodesError("finding addresses", errors)


def _resolved(session: Session, node: Node) -> str:
    name = address_of(node)
    found = name if _is_ip(name) else _on_head(session, name)
    if found is None and node.address is None and node.access.transport in ("ssh", "openssh"):
        name = host_name(node.host)
        found = name if _is_ip(name) else _on_head(session, name) if name != node.host else None
    if found is None:
        raise CommandError(f'the head node cannot resolve "{name}"', node=node.name, hint=ADDRESS_HINT)
    if not _is_ip(address_of(node)) and ipaddress.ip_address(found).is_loopback and name != "localhost":
        what = f'the head node resolves "{name}" to {found}, where no other node can reach it'
        raise CommandError(what, node=node.name, hint=ADDRESS_HINT)
    return found


def _on_head(session: Session, name: str) -> str | None:
    answer = session.transports[session.fleet.plan.head].run(("getent", "ahostsv4", name))
    words = [line.split()[0] for line in answer.stdout.splitlines() if line.split()]
    return next((word for word in words if _is_ip(word)), None) if answer.ok else None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
