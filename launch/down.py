"""Stops what `up` started, and nothing else; leaves the logs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from llmfleet.launch.change import desired
from llmfleet.launch.change.steps import Runner, Step
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.processes import ask_statuses, last_line, stop_step, supervise
from llmfleet.launch.phases import at_boot, connect, router
from llmfleet.launch.ray_serve.members import gcs_folder
from llmfleet.launch.record.account import as_started
from llmfleet.launch.results import ChangedStep, DownReport
from llmfleet.launch.session import Session
from llmfleet.launch.units.boot import BootUnit
from llmfleet.launch.units.service import ServiceUnit
from llmfleet.launch.up import locked_session
from llmfleet.planner.errors import CommandError, FleetError, TransportError
from llmfleet.planner.inventory.model import Node

ANY_EXISTS = 'for path; do [ -e "$path" ] && exit 0; done; exit 1'
REMOVE_WITHIN_S = 300.0
# Clients lose their address first, engines finish what they hold, Ray goes last.
ORDER = ("router", "application", "engine", "rank", "ray-worker", "ray-head")
STOPS = ("stop router", "stop the application", "stop instances", "stop ranks", "stop ray workers", "stop ray head")
PHASES = ("connect", "at boot", *STOPS, "clean up")


def down(fleet: Fleet, *, dry_run: bool = False, keep_weights: bool = False) -> DownReport:
    """Everything recorded in the state, on every node ever used. Nodes that are away stay in the state."""
    begun = time.monotonic()
    with locked_session(fleet, "down", lock=not dry_run) as session:
        lose = partial(_lose, session)
        runner = Runner(fleet.observe, dry_run, len(PHASES), session.check_lock, lose, session.audit)
        runner.phase(1, PHASES[0], lambda: _connect(session))
        stopped: list[ChangedStep] = []
        # first: a machine that goes down meanwhile must not come back with what was still to be stopped
        stopped += runner.phase(2, PHASES[1], lambda: at_boot.remove_steps(session, session.transports, BootUnit))
        for number, kind in enumerate(ORDER, start=3):
            stopped += runner.phase(number, PHASES[number - 1], partial(_stop_kind, session, kind))
        stopped += runner.phase(len(PHASES), PHASES[-1], lambda: _clean_steps(session, keep_weights=keep_weights))
        if not dry_run:
            session.check_lock()
            _forget(session)
            _leave_head(session)
        return DownReport(tuple(stopped), tuple(sorted(session.lost)), time.monotonic() - begun, dry_run)


def _known_nodes(session: Session) -> list[Node]:
    """Planned nodes and every node the state remembers, also those the inventory has lost, but none it excludes."""
    planned = {n.name: n for n in session.fleet.planned_nodes()}
    recorded = {name: _as_started(session, session.node(name)) for name in session.store.value.nodes}
    for node in recorded.values():
        if node.exclude:
            session.note(connect.LEFT_EXCLUDED, node=node.name, level="warning")
    return [n for n in {**planned, **recorded}.values() if not n.exclude]


def _as_started(session: Session, node: Node) -> Node:
    before = session.recorded(node.name)
    return as_started(before, node) if before else node


def _connect(session: Session) -> list[Step]:
    """The head first, for the lock and what it knows. Without it, whoever is here is trusted to be alone."""
    head = _as_started(session, session.node(session.fleet.plan.head))
    session.connect([head])
    if head.name in session.transports:
        session.lock_head()
        session.adopt_state_from_head()
    session.connect([n for n in _known_nodes(session) if n.name != head.name])
    for name, error in sorted(session.lost.items()):
        _tell_lost(session, name, error)
    return []


def _lose(session: Session, node: str, error: FleetError) -> None:
    session.lose(node, error)
    _tell_lost(session, node, error)


def _tell_lost(session: Session, node: str, error: FleetError) -> None:
    session.note(f"left alone, it could not be reached: {error.message}", node=node, level="warning")


def _stop_kind(session: Session, kind: str) -> list[Step]:
    """Recorded processes of the kind, and those found running in our folders that nobody recorded."""
    wanted = {(r.node, r.name) for r in session.store.value.processes.values() if r.kind == kind}
    for outcome in ask_statuses(session, sorted(session.transports)):
        if isinstance(outcome.error, TransportError):
            _lose(session, outcome.item, outcome.error)
        elif outcome.error is not None:  # what is recorded there is stopped all the same, and the rest swept
            session.note(outcome.error.message, node=outcome.item, level="warning")
        wanted |= {(outcome.item, s.name) for s in (outcome.value or {}).values() if s.alive and s.kind == kind}
    return [
        stop_step(session, node, name, grace_s=router.STOP_GRACE_S if kind == "router" else desired.STOP_GRACE_S)
        for node, name in sorted(wanted)
        if node in session.transports
    ]


def _clean_steps(session: Session, *, keep_weights: bool) -> list[Step]:
    units = at_boot.remove_steps(session, session.transports, ServiceUnit)
    return [*units, *(_clean_step(session, node, keep_weights=keep_weights) for node in sorted(session.transports))]


def _clean_step(session: Session, node: str, *, keep_weights: bool) -> Step:
    transport, folder = session.transports[node], session.folders[node]
    gone = [folder.run, folder.router, folder.bin, folder.keys, folder.plans, gcs_folder(folder)]
    if not keep_weights:
        gone.append(folder.models)
    if node != session.fleet.plan.head:
        gone += [folder.state, folder.lock]  # of a time when it was the head

    def needed() -> bool:
        return transport.run(("sh", "-c", ANY_EXISTS, "sh", *gone)).ok

    def apply() -> None:
        done = supervise(session, node, "sweep", folder.root, timeout=60)
        if not done.ok:
            raise CommandError(f"leftover processes could not be stopped: {last_line(done)}", node=node)
        keep_logs(session, node)
        remove(session, node, gone)

    return Step(node, "remove our files but the logs", needed, apply)


def remove(session: Session, node: str, paths: Sequence[str]) -> None:
    done = session.transports[node].run(("rm", "-rf", "--", *paths), timeout=REMOVE_WITHIN_S)
    if not done.ok:
        raise CommandError(f"our files could not be removed: {last_line(done)}", node=node, hint="Who owns them?")


def _leave_head(session: Session) -> None:
    """The head's copy of the state goes when nothing is left to be taken down, and the lock's file last of all."""
    head = session.fleet.plan.head
    if head not in session.transports:
        return
    if session.store.value.nodes:
        session.copy_state_to_head()
    else:
        remove(session, head, [session.folders[head].state, session.folders[head].lock])


def keep_logs(session: Session, node: str) -> None:
    """run/<name>/log becomes logs/<name>.log."""
    transport, folder = session.transports[node], session.folders[node]
    names = transport.run(("ls", "-1", folder.run)).stdout.split()
    if names:
        transport.run(("mkdir", "-p", "-m", "700", "--", folder.logs))
    for name in names:
        transport.run(("mv", "-f", "--", f"{folder.process(name)}/log", f"{folder.logs}/{name}.log"))


def _forget(session: Session) -> None:
    """Nodes that were reached are forgotten; the others are still to be taken down."""
    done = set(session.transports)
    session.store.change(
        lambda s: replace(
            s,
            nodes={n: v for n, v in s.nodes.items() if n not in done},
            processes={k: p for k, p in s.processes.items() if p.node not in done},
            drained=tuple(n for n in s.drained if n not in done),
            draining=tuple(n for n in s.draining if n not in done),
            runtime=s.runtime if set(s.nodes) - done else "engines",
        )
    )
