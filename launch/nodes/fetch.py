"""What only the head node can GET: the router's admin pages, and the router as its neighbours see it."""

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
    head = session.fleet.plan.head
    python, script = session.node(head).runtime.python, session.folders[head].script(FETCH)
    answer = session.transports[head].run((python, script, url))
    try:
        page = json.loads(answer.stdout.strip().rpartition("\n")[2])[0]  # a login shell may have said something before
        return Page(int(page["status"]), str(page["body"]))
    except (ValueError, KeyError, TypeError, IndexError):
        return Page(0, (answer.stderr.strip() or answer.stdout.strip() or "no answer")[-200:])
