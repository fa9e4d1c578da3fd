"""What only a node can GET: its router's admin pages, and a router as its neighbours see it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from llmfleet.launch.fleet import FETCH
from llmfleet.launch.session import Session


@dataclass(frozen=True, slots=True)
class Page:
    """Status 0: nobody answered, and the body says why."""

    status: int
    body: str


def fetch_on_head(session: Session, url: str) -> Page:
    """Raises TransportError when the head itself is away."""
    return fetch_on(session, session.fleet.plan.head, url)


def fetch_on(session: Session, node: str, url: str) -> Page:
    """Raises TransportError when the node itself is away."""
    python, script = session.node(node).runtime.python, session.folders[node].script(FETCH)
    answer = session.transports[node].run((python, script, url))
    try:
        page = json.loads(answer.stdout.strip().rpartition("\n")[2])[0]  # a login shell may have said something before
        return Page(int(page["status"]), str(page["body"]))
    except (ValueError, KeyError, TypeError, IndexError):
        return Page(0, (answer.stderr.strip() or answer.stdout.strip() or "no answer")[-200:])
