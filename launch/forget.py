"""Striking a machine that is no more off the record. What may still run on it is nobody's business any more."""

from __future__ import annotations

from dataclasses import replace

from llmfleet.launch.fleet import Fleet
from llmfleet.launch.phases import connect
from llmfleet.launch.session import Session
from llmfleet.launch.up import locked_session
from llmfleet.planner.errors import HostKeyError, InputError, StateError

AT_BOOT = "should it come back, it starts its engines by itself: disable its llmfleet units of systemd, or wipe it"


def forget(fleet: Fleet, node: str) -> tuple[str, ...]:
    """The processes that were on record there. Raises InputError for a node that is not on record, StateError for one
    that answers, or that is the head."""
    if node == fleet.plan.head:
        raise StateError(
            f"{node} is the head node, which carries the state and the router",
            hint="Give the router another node (`router: {node: …}`), plan and `llmfleet up`.",
        )
    with locked_session(fleet, f"down --forget {node}") as session:
        connect.reach_head(session)
        state = session.store.value
        if node not in state.nodes:
            known = ", ".join(sorted(state.nodes)) or "none"
            raise InputError(f'no node "{node}" is on record', hint=f"On record: {known}.")
        _is_gone(session, node)
        if session.node(node).runtime.uses_systemd:
            session.note(AT_BOOT, node=node, level="warning")
        lost = tuple(sorted(r.name for r in state.processes.values() if r.node == node))
        session.store.change(
            lambda s: replace(
                s,
                nodes={name: value for name, value in s.nodes.items() if name != node},
                processes={key: r for key, r in s.processes.items() if r.node != node},
                draining=tuple(n for n in s.draining if n != node),
                drained=tuple(n for n in s.drained if n != node),
            )
        )
        session.copy_state_to_head()
        if any(n.name == node for n in fleet.planned_nodes()):
            session.note("the plan still has it: set `exclude: true`, or remove it, and plan again", node=node)
        return lost


def _is_gone(session: Session, node: str) -> None:
    """A machine that answers is not gone. One that answers with another host key was replaced by another machine."""
    failed = next((o.error for o in session.connect([session.node(node)]) if o.error is not None), None)
    if isinstance(failed, StateError):  # nobody asked it
        raise failed
    if failed is None:
        raise StateError(
            f"{node} answers: what runs there would be forgotten and run on",
            node=node,
            hint=f"`llmfleet drain {node}` stops what runs there; `llmfleet down` takes the whole fleet down.",
        )
    why = "its host key changed" if isinstance(failed, HostKeyError) else failed.message
    session.note(f"it does not answer ({why}): forgotten", node=node)
