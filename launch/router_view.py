"""The emitted router configuration: shown without touching a node, or written to the head again."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Mapping
from difflib import unified_diff
from typing import Literal

from llmfleet.launch.change.steps import Runner
from llmfleet.launch.fleet import Fleet, node_folder
from llmfleet.launch.phases import connect, router
from llmfleet.launch.phases.verify import router_url
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.results import UpReport
from llmfleet.launch.router.clients import masked
from llmfleet.launch.router.exports import exported
from llmfleet.launch.router.exports.export import Export
from llmfleet.launch.router.metrics import grafana_dashboard, prometheus_config
from llmfleet.launch.session import Session, open_session
from llmfleet.launch.up import locked_session
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.near import nearest
from llmfleet.planner.ports import address_of

MetricsForm = Literal["prometheus", "grafana"]


def router_show(fleet: Fleet, node: str | None = None) -> Mapping[str, str]:
    """The files `up` would write, by path below the router's folder, keys of clients masked. Host names are resolved
    here, not on the head. `node`: of the router there, the first if left out. Raises UnknownNameError."""
    routers = fleet.plan.router.nodes
    node = node or fleet.plan.head
    if node not in routers:
        hint = f"Routers: {', '.join(routers)}."
        raise UnknownNameError("node with a router", node, nearest(node, routers), hint=hint)
    session = Session(fleet, StateStore(fleet.folder, fleet.inventory.cluster), addresses={**_hosts(fleet)})
    session.folders[node] = node_folder(fleet.inventory.node(node), fleet.inventory.cluster, "~")
    return masked(router.desired_files(session, node), secrets.token_bytes(16))


def router_export(fleet: Fleet, form: str) -> Export:
    """The plan's routing for another router, `form` is one of FORMATS. Touches no node."""
    return exported(form, fleet.plan, _hosts(fleet))


def router_metrics(fleet: Fleet, form: MetricsForm) -> str:
    """A Prometheus configuration (YAML) or a Grafana dashboard (JSON) of the plan. Touches no node."""
    if form == "prometheus":
        return prometheus_config(fleet.plan, _hosts(fleet))
    return json.dumps(grafana_dashboard(fleet.plan), indent=2) + "\n"


def _hosts(fleet: Fleet) -> Mapping[str, str]:
    return {n.name: resolved(n.name, address_of(n)) for n in fleet.planned_nodes()}


def resolved(node: str, host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        raise InputError(
            f'"{host}" cannot be resolved on this machine', node=node, hint="`llmfleet up` resolves it on the head."
        ) from None


def router_diff(fleet: Fleet) -> Mapping[str, str]:
    """What reload would change: a unified diff by path, of other nodes than the head by node:path; keys of clients
    masked. Changes nothing."""
    with open_session(fleet) as session:
        connect.reach_head(session)
        router.connect_others(session)
        connect.resolve_addresses(session, list(fleet.planned_nodes()))
        found: dict[str, str] = {}
        for node in router.reached_routers(session):
            own = "" if node == fleet.plan.head else f"{node}:"
            found |= {own + name: text for name, text in _differences(session, node).items()}
    return found


def _differences(session: Session, node: str) -> Mapping[str, str]:
    wanted = router.desired_files(session, node)
    transport, folder = session.transports[node], session.folders[node].router
    found = {name: (transport.get(f"{folder}/{name}") or b"").decode(errors="replace") for name in wanted}
    salt = secrets.token_bytes(16)
    old, new = masked(found, salt), masked(wanted, salt)
    return {name: _unified(name, node, old[name], new[name]) for name in new if found[name] != wanted[name]}


def _unified(name: str, node: str, old: str, new: str) -> str:
    titles = (f"{name} on {node}", f"{name} after a reload")
    lines = unified_diff(old.splitlines(), new.splitlines(), *titles, lineterm="")
    return "\n".join(lines)


def router_reload(fleet: Fleet) -> UpReport:
    """Writes what differs. Streams go on: endpoints, clusters and routes are read anew, the listener stays."""
    begun = time.monotonic()
    with locked_session(fleet, "router reload") as session:
        connect.reach_head(session)
        connect.check_up(session)
        connect.resolve_addresses(session, fleet.planned_nodes())
        router.connect_others(session)
        changed = Runner(fleet.observe, check=session.check_lock).phase(1, "router", lambda: router.file_steps(session))
        return UpReport(tuple(changed), False, time.monotonic() - begun, router_url(session))
