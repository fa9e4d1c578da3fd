"""Requests in flight: what the engines count, and what the router still has open to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmfleet.launch.nodes.fetch import fetch_on
from llmfleet.launch.nodes.live import probe_nodes
from llmfleet.launch.nodes.probe import NodeProbe
from llmfleet.launch.router.state import clusters_url, parse_clusters
from llmfleet.launch.session import Session
from llmfleet.planner.errors import StateError
from llmfleet.planner.plan import Instance
from llmfleet.planner.ports import address_of

OK = 200


@dataclass(frozen=True, slots=True)
class RouterLoad:
    """One instance as the router counts it: requests now, and tries since the router started."""

    active: int = 0
    total: int = 0
    flags: tuple[str, ...] = ()  # why it gets no requests, in Envoy's words; empty: it does


def in_flight(session: Session, engines: Iterable[tuple[str, str]]) -> Mapping[str, int]:
    """Of engines by node and name: the larger of what it and the router count; where it is away, the router's count."""
    engines = tuple(engines)
    loads = router_loads(session) or {}
    probes = probe_nodes(session, {node for node, _ in engines if node in session.transports})
    counted = {}
    for node, name in engines:
        metrics = probes.get(node, NodeProbe()).engines.get(name)
        engine = (metrics.running or 0) + (metrics.waiting or 0) if metrics else 0
        counted[name] = max(engine, loads.get(name, RouterLoad()).active)
    return counted


def router_loads(session: Session) -> Mapping[str, RouterLoad] | None:
    """By instance, of all routers together, as far as they are connected and answer; None where the first does not."""
    first, *more = session.fleet.plan.router.nodes
    if first not in session.transports or (loads := loads_at(session, first)) is None:
        return None
    others = [loads_at(session, node) for node in more if node in session.transports]
    return _added([loads, *(found for found in others if found is not None)])


def loads_at(session: Session, node: str) -> Mapping[str, RouterLoad] | None:
    """The same of one router; None where it does not answer. An instance in several clusters counts in each."""
    page = fetch_on(session, node, clusters_url(session.fleet.plan.router.admin_port))
    try:
        traffic = parse_clusters(page.body) if page.status == OK else None
    except StateError:
        return None
    if traffic is None:
        return None
    return _added([{seen.instance: RouterLoad(seen.active, seen.total, seen.flags)} for seen in traffic])


def _added(counted: Iterable[Mapping[str, RouterLoad]]) -> Mapping[str, RouterLoad]:
    loads: dict[str, RouterLoad] = {}
    for name, seen in (pair for loads_seen in counted for pair in loads_seen.items()):
        known = loads.get(name, RouterLoad())
        flags = tuple(sorted({*known.flags, *seen.flags}))
        loads[name] = RouterLoad(known.active + seen.active, known.total + seen.total, flags)
    return loads


def address(session: Session, instance: Instance) -> str:
    """The engine's own address: ip:port where the name could be resolved."""
    node = session.node(instance.nodes[0])
    return f"{session.addresses.get(node.name, address_of(node))}:{instance.port}"
