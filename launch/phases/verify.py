"""The last look: every service answers at the router's address, and the router reaches every instance."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable

from llmfleet.launch.nodes.engine_load import loads_at
from llmfleet.launch.nodes.fetch import fetch_on
from llmfleet.launch.phases.router import reached_routers
from llmfleet.launch.session import Session
from llmfleet.planner.errors import HealthError
from llmfleet.planner.plan import Instance
from llmfleet.planner.ports import address_of

ANSWER_WITHIN_S = 30.0
POLL_S = 0.5


def router_url(session: Session) -> str:
    """Where clients connect: what routers share, or where the first one listens."""
    router = session.fleet.plan.router
    return _url(session, router.address) if router.address else own_url(session, router.node)


def own_url(session: Session, node: str) -> str:
    """Where the router of a node listens, or the node's address where that is any address."""
    router = session.fleet.plan.router
    if node == router.node and _is_one_address(router.bind):
        return _url(session, router.bind)
    return _url(session, session.addresses.get(node, address_of(session.node(node))))


def _url(session: Session, host: str) -> str:
    router = session.fleet.plan.router
    scheme = "http" if session.fleet.inventory.router.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{router.port}"


def _is_one_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def verify(session: Session, instances: Iterable[Instance]) -> None:
    """Of each router, as seen from its node. Raises HealthError when its /v1/models lacks a planned service, or when an
    instance never passes its own health check."""
    instances = tuple(instances)
    for node in reached_routers(session):
        _verify(session, node, instances)


def _verify(session: Session, node: str, instances: Iterable[Instance]) -> None:
    unseen = {i.id for i in instances}
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        listed, reason = _models(session, node)
        missing = {s.name for s in session.fleet.plan.services} - listed
        unseen -= {name for name, load in (loads_at(session, node) or {}).items() if not load.flags}
        if not missing and not unseen:
            return
        if time.monotonic() > deadline:
            raise _error(session, node, sorted(missing), sorted(unseen), reason)
        time.sleep(POLL_S)


def _error(session: Session, node: str, missing: list[str], unseen: list[str], reason: str) -> HealthError:
    if missing:
        what, hint = f"does not list {', '.join(missing)}: {reason}", "llmfleet logs router shows what it says."
    else:
        what, hint = f"cannot reach {', '.join(unseen)}", f"Is there a firewall between {node} and their nodes?"
    return HealthError(
        f"the router at {own_url(session, node)} {what}",
        node=node,
        hint=f"{hint} `llmfleet up` goes on from here.",
    )


def _models(session: Session, node: str) -> tuple[set[str], str]:
    """Names that it lists, and what to say where one lacks. No key is sent about for this: a shut door will do."""
    page = fetch_on(session, node, f"{own_url(session, node)}/v1/models")
    if session.fleet.inventory.router.keys_file is not None:
        shut = {s.name for s in session.fleet.plan.services} if page.status == 401 else set[str]()
        return shut, f"HTTP status {page.status} without a key instead of 401"
    try:
        return {m["id"] for m in json.loads(page.body)["data"]}, f"HTTP status {page.status}"
    except (ValueError, KeyError, TypeError):
        return set(), page.body[:200] or f"HTTP status {page.status}"
