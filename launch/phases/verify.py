"""The last look: every service answers at the router's address, and the router reaches every instance."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable

from llmfleet.launch.nodes.engine_load import router_loads
from llmfleet.launch.nodes.fetch import fetch_on_head
from llmfleet.launch.session import Session
from llmfleet.planner.errors import HealthError
from llmfleet.planner.plan import Instance
from llmfleet.planner.ports import address_of

ANSWER_WITHIN_S = 30.0
POLL_S = 0.5


def router_url(session: Session) -> str:
    """Where clients connect: the address that the router listens on, or its node's where that is any address."""
    router = session.fleet.plan.router
    host = router.bind
    if not _is_one_address(host):
        host = session.addresses.get(router.node, address_of(session.node(router.node)))
    scheme = "http" if session.fleet.inventory.router.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{router.port}"


def _is_one_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def verify(session: Session, instances: Iterable[Instance]) -> None:
    """As seen from the head node. Raises HealthError when /v1/models at the router lacks a planned service, or when an
    instance never passes the router's own health check."""
    unseen = {i.id for i in instances}
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        listed, reason = _models(session)
        missing = {s.name for s in session.fleet.plan.services} - listed
        unseen -= {name for name, load in (router_loads(session) or {}).items() if not load.flags}
        if not missing and not unseen:
            return
        if time.monotonic() > deadline:
            raise _error(session, sorted(missing), sorted(unseen), reason)
        time.sleep(POLL_S)


def _error(session: Session, missing: list[str], unseen: list[str], reason: str) -> HealthError:
    if missing:
        what, hint = f"does not list {', '.join(missing)}: {reason}", "llmfleet logs router shows what it says."
    else:
        what, hint = f"cannot reach {', '.join(unseen)}", "Is there a firewall between the head and their nodes?"
    return HealthError(
        f"the router at {router_url(session)} {what}",
        node=session.fleet.plan.head,
        hint=f"{hint} `llmfleet up` goes on from here.",
    )


def _models(session: Session) -> tuple[set[str], str]:
    """Names that it lists, and what to say where one lacks. No key is sent about for this: a shut door will do."""
    page = fetch_on_head(session, f"{router_url(session)}/v1/models")
    if session.fleet.inventory.router.keys_file is not None:
        shut = {s.name for s in session.fleet.plan.services} if page.status == 401 else set[str]()
        return shut, f"HTTP status {page.status} without a key instead of 401"
    try:
        return {m["id"] for m in json.loads(page.body)["data"]}, f"HTTP status {page.status}"
    except (ValueError, KeyError, TypeError):
        return set(), page.body[:200] or f"HTTP status {page.status}"
