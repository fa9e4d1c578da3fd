"""Whether the nodes run what the state says they run. Where they do not, a person decides whom to believe."""

from __future__ import annotations

from llmfleet.launch.nodes.probe import ProcessStatus
from llmfleet.launch.nodes.processes import Statuses
from llmfleet.launch.record.state import ProcessRecord
from llmfleet.launch.session import Session
from llmfleet.planner.errors import FleetError, NodesError, StateError

HINT = (
    "Did a run from another machine keep a state of its own, or was the state lost? `llmfleet state rebuild` takes "
    "over what the nodes run, and `llmfleet up` goes on from there; `llmfleet down` stops all of it."
)


def compare(session: Session, statuses: Statuses) -> None:
    """Raises NodesError naming every process of ours that the state does not know, or knows as another."""
    records = session.store.value.processes
    errors: list[FleetError] = []
    for node, known in sorted(statuses.items()):
        for name, status in sorted(known.items()):
            what = disagreement(records.get(f"{node}/{name}"), status) if status.alive else ""
            if what:
                errors.append(StateError(f"{name} {what}", node=node))
    if errors:
        error = NodesError("comparing the state with what runs", errors)
        error.hint = HINT
        raise error


def disagreement(record: ProcessRecord | None, status: ProcessStatus) -> str:
    """A start that was interrupted, before it or after, is no disagreement: it was recorded first."""
    if record is None:
        return "runs there, and the state does not know of it"
    if record.state == "started" and status.digest is not None and status.digest != record.digest:
        return f"is not the one that the state knows: it was started anew, as {status.digest} and not {record.digest}"
    return ""
