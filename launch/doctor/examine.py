"""The checks of many nodes as an operation of its own. Changes nothing, takes no lock, and gives every node its say."""

from __future__ import annotations

from collections.abc import Sequence

from llmfleet.launch.change.desired import active_instances
from llmfleet.launch.doctor.checks import node_results, views
from llmfleet.launch.doctor.result import Check, CheckResult, DoctorReport, NodeReport
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.phases.connect import resolve_addresses
from llmfleet.launch.phases.facts import ask
from llmfleet.launch.phases.serving import settle_runtime
from llmfleet.launch.pool import on_each
from llmfleet.launch.record.state import Runtime
from llmfleet.launch.session import Session, open_session
from llmfleet.planner.errors import AuthError, FleetError, HostKeyError, StateError, SudoError
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.plan import Plan, RouterPlan
from llmfleet.planner.ports import address_of

REACH = Check("reach", "everything is done over SSH")
HOST_KEY = Check("host key", "only the machine itself has it: who takes any key talks to anyone")
SUDO = Check("sudo", "the inventory has `sudo: true`, and every command on the node goes through it")
LOGIN = Check("login", "everything is done as this user")
FACTS = Check("facts", "all other checks come from what a small script on the node says")
NAME = Check("name", "router and engines connect to each other by IP address")


def without_plan(inventory: Inventory) -> Plan:
    """A plan that has nothing on any node, for checks of the nodes alone."""
    head = inventory.router.node or next((n.name for n in inventory.nodes if not n.gpus), inventory.nodes[0].name)
    also = tuple(name for name in inventory.router.also if name != head)
    place = address_of(inventory.node(head))
    router = RouterPlan(head, place, inventory.router.port, inventory.router.admin_port, also)
    return Plan(inventory.cluster, head, (), (), router)


def examine(fleet: Fleet, nodes: Sequence[Node], runtime: Runtime | None = None) -> DoctorReport:
    """Never raises for a node: what keeps one from answering is its result. `runtime`: as `up` would be asked for it.

    Raises StateError where the fleet is up in another way, InputError for what Ray Serve cannot run.
    """
    with open_session(fleet) as session:
        settle_runtime(session, runtime)
        head = session.node(fleet.plan.head)
        session.connect({n.name: n for n in (head, *nodes)}.values())
        results = {n.name: _reach_results(session, n) for n in nodes}
        reached = [n.name for n in session.reached(nodes)]
        everyone = [n.name for n in session.reached({n.name: n for n in (head, *nodes)}.values())]
        instances = active_instances(fleet.plan, everyone)
        for outcome in on_each(everyone, lambda name: ask(session, name, instances)):
            if outcome.value is not None:
                session.facts[outcome.item] = outcome.value
            elif outcome.item in results and outcome.error is not None:
                results[outcome.item].append(FACTS.fail(outcome.error.message, outcome.error.hint))
        carrying = {n.name for n in fleet.planned_nodes()} if fleet.plan.instances else set()
        known = [n for n in reached if n in session.facts]
        seen = views(session, [n for n in known if n in carrying], instances)
        for view in [*seen, *views(session, [n for n in known if n not in carrying], (), planned=False)]:
            results[view.node.name] += node_results(view)
        reports = tuple(NodeReport(n.name, n.host, n.name in reached, tuple(results[n.name])) for n in nodes)
    return DoctorReport(all(r.reached and not r.count("fail") for r in reports), reports)


def _reach_results(session: Session, node: Node) -> list[CheckResult]:
    error = session.lost.get(node.name)
    if error is not None:
        return [_kind(error).fail(error.message, error.hint)]
    over_ssh = node.access.transport in ("ssh", "openssh")
    found = [REACH.ok(f"{node.host} over SSH" if over_ssh else node.access.transport)]
    if over_ssh:
        found.append(HOST_KEY.ok(f"as in {node.access.known_hosts}"))
    if node.access.sudo:  # every command so far went through it
        found.append(SUDO.ok("root, with a password" if node.access.sudo_password_env else "root, without a password"))
    return [*found, *_name_results(session, node)]


def _kind(error: FleetError) -> Check:
    if isinstance(error, SudoError):
        return SUDO
    as_whom = (AuthError, StateError)  # the latter before anybody was asked: what runs there is another account's
    return HOST_KEY if isinstance(error, HostKeyError) else LOGIN if isinstance(error, as_whom) else REACH


def _name_results(session: Session, node: Node) -> list[CheckResult]:
    """Its address as the head resolves it; without the head, as the inventory writes it."""
    if session.fleet.plan.head not in session.transports:
        return []
    try:
        resolve_addresses(session, [node])
    except FleetError as error:
        return [NAME.fail(error.message, error.hint)]
    return []
