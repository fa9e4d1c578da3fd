"""The plan's instances as Ray Serve runs them: it chooses the node of a kind's replicas, and how many there are now."""

from __future__ import annotations

from collections.abc import Iterator

from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.ray_serve.application import Seen, address_at, kinds_planned, look
from llmfleet.launch.results import InstanceState, InstanceStatus
from llmfleet.launch.session import Session
from llmfleet.planner.errors import FleetError

STATES: dict[str, InstanceState] = {
    "RUNNING": "healthy",
    "STARTING": "starting",
    "UPDATING": "starting",
    "RECOVERING": "starting",
    "PENDING_MIGRATION": "draining",
    "STOPPING": "draining",
}
BEST_FIRST = ("healthy", "draining", "starting", "unhealthy", "stopped")


def instances_seen(session: Session, seen: Seen | None) -> tuple[InstanceStatus, ...]:
    """In the plan's order. `seen`: None where nobody could be asked."""
    found = {s.id: s for kind in kinds_planned(session) for s in _of_kind(session, kind, seen)}
    return tuple(found[i.id] for i in session.fleet.plan.instances)


def ask(session: Session) -> Seen | None:
    if session.fleet.plan.head not in session.transports:
        return None
    try:
        return look(session)
    except FleetError as error:
        session.note(error.message, node=session.fleet.plan.head, level="warning")
        return None


def _of_kind(session: Session, kind: Kind, seen: Seen | None) -> Iterator[InstanceStatus]:
    """A node's replicas stand for its instances, the best first."""
    out = session.store.value.out_of_rotation
    left = sorted(seen.replicas.get(kind.name, ()) if seen else (), key=lambda r: BEST_FIRST.index(_state(r[1])))
    unwanted = seen.targets.get(kind.name, 0) if seen else 0
    unwanted = sum(not out & set(i.nodes) for i in kind.instances) - unwanted
    for instance in kind.instances:
        addresses = {address_at(session, n) for n in instance.nodes}
        mine = next((r for r in left if r[0] in addresses), None)
        common = (instance.id, instance.service, instance.nodes, instance.gpus)
        url = f"http://{session.fleet.plan.head}/{kind.name}"
        away, drained = [n for n in instance.nodes if n in session.lost], sorted(out & set(instance.nodes))
        if away:
            yield InstanceStatus(*common, "unhealthy", url, reason=f"{', '.join(away)} unreachable")
        elif seen is None:
            reason = f"what keeps the application on {session.fleet.plan.head} does not answer"
            yield InstanceStatus(*common, "unhealthy", url, reason=reason)
        elif mine is not None:
            left.remove(mine)
            state = _state(mine[1])
            yield InstanceStatus(*common, state, url, reason="" if state == "healthy" else f"in Ray Serve: {mine[1]}")
        elif drained:
            yield InstanceStatus(*common, "stopped", url, reason=f"{', '.join(drained)} drained")
        elif unwanted > 0 and kind.name in seen.targets:
            unwanted -= 1
            reason = f"Ray Serve needs {seen.targets.get(kind.name, 0)} of {kind.name} now"
            yield InstanceStatus(*common, "stopped", url, reason=reason, wanted=False)
        else:
            said = seen.messages.get(kind.name, "").partition("\n")[0][:200]
            yield InstanceStatus(*common, "starting", url, reason=said or "Ray Serve has not placed it yet")


def _state(word: str) -> InstanceState:
    return STATES.get(word, "unhealthy")
