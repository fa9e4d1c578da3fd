"""Taking a node out of rotation without losing a request, and putting it back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from llmfleet.launch.change import desired
from llmfleet.launch.change.steps import Runner, Step
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.finish import wait_idle
from llmfleet.launch.nodes.processes import ask_statuses, read_statuses, start_step, stop_step
from llmfleet.launch.phases import at_boot, connect, router
from llmfleet.launch.pool import raise_failures
from llmfleet.launch.ray_serve import application
from llmfleet.launch.results import CapacityLeft, DrainReport, UpReport
from llmfleet.launch.session import Session
from llmfleet.launch.up import UpOptions, locked_session, run_up
from llmfleet.planner.errors import FleetError, InputError, StateError, TransportError
from llmfleet.planner.plan import Instance, Plan

FINISH_HINT = "They get no new ones. Wait and drain again, or `--force` to cut them off, or undrain."
PHASES = ("connect", "out of rotation", "finish requests", "stop instances")


def capacity_left(plan: Plan, out: frozenset[str]) -> tuple[CapacityLeft, ...]:
    """What each service keeps while these nodes are out: instances, and the share of its planned requests/s."""
    left = []
    for service in plan.services:
        names = dict.fromkeys(name for pool in service.pools for name in pool.instances)  # one may be in two pools
        members = plan.those(names)
        staying = [i for i in members if not out & set(i.nodes)]
        total = sum(_capacity(i) for i in members)
        share = sum(_capacity(i) for i in staying) / total if total else 0.0
        left.append(CapacityLeft(service.name, len(staying), len(members), share))
    return tuple(left)


def _capacity(instance: Instance) -> float:
    return instance.capacity_rps or instance.expected.requests_per_s


def drain(fleet: Fleet, node: str, *, timeout_s: float = 600, force: bool = False) -> DrainReport:
    """Out of the router first; then requests finish; then the node's instances stop.

    Raises HealthError when requests are still running after `timeout_s` (with `force` they are cut instead),
    StateError when the head drains itself or nothing is up, InputError for an unknown node.
    """
    check_drainable(fleet, node)
    begun = time.monotonic()
    with locked_session(fleet, f"drain {node}") as session:
        connect_for_drain(session, node)
        out = session.store.value.out_of_rotation | {node}
        affected = tuple(i for i in fleet.plan.instances if node in i.nodes)
        done = run_drain(session, node, affected, timeout_s=timeout_s, force=force)
        return DrainReport(
            node,
            tuple(i.id for i in affected),
            capacity_left(fleet.plan, out),
            time.monotonic() - begun,
            done,
            tuple(sorted(session.lost)),
        )


def undrain(fleet: Fleet, node: str) -> UpReport:
    """Starts what the plan has on the node and puts it back into the router. Other nodes that are away do not keep it
    from that, but are told in a NodesError at the end."""
    known_node(fleet, node)
    with locked_session(fleet, f"undrain {node}") as session:
        connect.reach_head(session)
        connect.check_up(session)
        if node not in session.store.value.out_of_rotation:
            session.note("it was not drained: nothing to put back", node=node)
        else:
            raise_failures("undrain", session.connect([session.node(node)]))
            # instances start while the router still avoids them: its health checks decide when they get requests
            session.store.change(
                lambda s: replace(
                    s,
                    drained=tuple(n for n in s.drained if n != node),
                    draining=tuple(n for n in s.draining if n != node),
                )
            )
        return run_up(session, UpOptions(skip_unreachable=True))


def known_node(fleet: Fleet, node: str) -> None:
    names = [n.name for n in fleet.inventory.nodes]
    if node not in names:
        raise InputError(f'no node "{node}" in the inventory', hint=f"Nodes: {', '.join(names[:20])}.")


def check_drainable(fleet: Fleet, node: str) -> None:
    known_node(fleet, node)
    if node == fleet.plan.head and not any(node in i.nodes for i in fleet.plan.instances):
        raise StateError(
            f'"{node}" carries the router and no instance: there is nothing to drain',
            hint="Give the router another node (`router: {node: …}`), plan and `llmfleet up`; or `llmfleet down`.",
        )
    if node in fleet.plan.router.also and not any(node in i.nodes for i in fleet.plan.instances):
        raise StateError(
            f'"{node}" carries a router and no instance: there is nothing to drain',
            hint="Clients reach the other routers when it is switched off. For good: take it out of `router: also`.",
        )


def connect_for_drain(session: Session, node: str) -> None:
    """The head is needed. The node itself may be gone: then the router forgets it and that is all one can do."""
    connect.reach_head(session)
    connect.check_up(session)
    if session.on_ray_serve and node == session.fleet.plan.head:
        raise StateError(
            f'"{node}" carries Ray\'s head: what runs there cannot be drained alone',
            hint="Give the router a node without GPUs (`router: {node: …}`), then down and up.",
        )
    others = {n for i in session.fleet.plan.instances if node in i.nodes for n in i.nodes}
    session.connect([session.node(n) for n in sorted(others | {node})])
    for name, error in sorted(session.lost.items()):
        if isinstance(error, StateError):  # it answers, and what runs there would go on unseen
            raise error
        _tell_lost(session, name, error)
    router.connect_others(session)
    connect.resolve_addresses(session, session.fleet.planned_nodes())


def _tell_lost(session: Session, node: str, error: FleetError) -> None:
    what = f"it cannot be reached, and what may run on it goes on: {error.message}"
    session.note(what, node=node, level="warning")


def run_drain(session: Session, node: str, affected: tuple[Instance, ...], *, timeout_s: float, force: bool) -> bool:
    """True where anything changed."""
    runner = Runner(session.fleet.observe, phases=len(PHASES), check=session.check_lock, audit=session.audit)
    changed = runner.phase(1, PHASES[0], list)
    was_out = node in session.store.value.drained
    if not was_out:
        _mark(session, node, draining=True)
        session.copy_state_to_head()
    changed += runner.phase(2, PHASES[1], lambda: router.file_steps(session))
    if session.on_ray_serve:
        changed += runner.rounds(3, PHASES[2], lambda: _leave_steps(session, node, timeout_s=timeout_s, force=force))
    else:
        engines = [(i.nodes[0], i.id) for i in affected]
        runner.phase(3, PHASES[2], lambda: _finished(session, engines, timeout_s=timeout_s, force=force))
    changed += runner.phase(4, PHASES[3], lambda: _stop_steps(session, node, affected))
    session.check_lock()
    _mark(session, node, draining=False)
    session.copy_state_to_head()
    return bool(changed) or not was_out


def _mark(session: Session, node: str, *, draining: bool) -> None:
    def edit(names: tuple[str, ...], *, present: bool) -> tuple[str, ...]:
        return tuple(sorted({*names, node} if present else set(names) - {node}))

    session.store.change(
        lambda s: replace(s, draining=edit(s.draining, present=draining), drained=edit(s.drained, present=not draining))
    )


def _leave_steps(session: Session, node: str, *, timeout_s: float, force: bool) -> Iterator[list[Step]]:
    """Ray Serve is told to do without the node, and what runs there finishes."""
    kinds = application.kinds_in_rotation(session)
    if not kinds:
        raise StateError(f"nothing is left to serve without {node}", hint="`llmfleet down` takes the fleet down.")
    yield [application.leave_step(session, node), application.config_step(session, kinds)]
    process = at_boot.in_unit(session, application.wanted_application(session, kinds))
    yield [start_step(session, process, read_statuses(session, [process.node]))]
    application.wait_left(session, node, timeout_s=timeout_s, force=force, hint=FINISH_HINT)


def _finished(
    session: Session, engines: list[tuple[str, str]], *, timeout_s: float, force: bool
) -> list[Step]:
    wait_idle(session, engines, timeout_s=timeout_s, hint=FINISH_HINT, force=force)
    return []


def _stop_steps(session: Session, node: str, affected: tuple[Instance, ...]) -> list[Step]:
    """The node's engines and Ray worker, and the engines elsewhere whose pipeline runs through it."""
    wanted = {(i.nodes[0], i.id) for i in affected} | {
        (r.node, r.name)
        for r in session.store.value.processes.values()
        if r.node == node and r.kind in ("engine", "ray-worker", "rank")
    }
    wanted |= desired.member_names((i for i in affected if i.multi_node == "mp"), session.fleet.plan.head)
    running = set()
    for outcome in ask_statuses(session, sorted({name for name, _ in wanted if name in session.transports})):
        if isinstance(outcome.error, TransportError):
            session.lose(outcome.item, outcome.error)
            _tell_lost(session, outcome.item, outcome.error)
        elif outcome.error is not None:
            raise outcome.error
        running |= {(outcome.item, s.name) for s in (outcome.value or {}).values() if s.alive}
    return [stop_step(session, where, name, grace_s=desired.STOP_GRACE_S) for where, name in sorted(wanted & running)]
