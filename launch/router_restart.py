"""A new router process in place of the running one, for a new bootstrap or a new Envoy. Nothing is refused or cut."""

from __future__ import annotations

import time

from llmfleet.launch.change.steps import Runner, Step
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.fetch import fetch_on
from llmfleet.launch.nodes.processes import read_statuses
from llmfleet.launch.phases import connect, router
from llmfleet.launch.phases.verify import router_url
from llmfleet.launch.results import UpReport
from llmfleet.launch.router.process import DRAIN_S
from llmfleet.launch.router.state import RouterLife, parse_server, server_url
from llmfleet.launch.session import Session
from llmfleet.launch.up import locked_session
from llmfleet.planner.errors import CommandError, StateError

WITHIN_S, POLL_S = 60.0, 0.2
PHASES = ("router files", "router restart")


def router_restart(fleet: Fleet) -> UpReport:
    """Returns when the new process has taken over. The old one finishes its streams within DRAIN_S seconds.

    Raises StateError where no router runs, CommandError where the new one does not take over: the old one goes on.
    """
    begun = time.monotonic()
    with locked_session(fleet, "router restart") as session:
        connect.reach_head(session)
        connect.check_up(session)
        connect.resolve_addresses(session, fleet.planned_nodes())
        runner = Runner(fleet.observe, phases=len(PHASES), check=session.check_lock)
        router.connect_others(session)
        changed = runner.phase(1, PHASES[0], lambda: router.file_steps(session))
        one_by_one = ([restart_step(session, node)] for node in router.reached_routers(session))
        changed += runner.rounds(2, PHASES[1], lambda: one_by_one)
        return UpReport(tuple(changed), False, time.monotonic() - begun, router_url(session))


def restart_step(session: Session, node: str) -> Step:
    return Step(node, "restart the router", needed=lambda: True, apply=lambda: _restart(session, node))


def _restart(session: Session, node: str) -> None:
    status = read_statuses(session, [node]).get(node, {}).get(router.PROCESS_NAME)
    before = _life(session, node)
    if status is None or status.pid is None or before is None:
        raise StateError("the router does not run, so there is nothing to restart", hint="`llmfleet up` starts it.")
    left_s = DRAIN_S - before.uptime_s
    if before.epoch and left_s > 0:
        raise StateError(
            f"the process before this one still finishes its streams, for up to {left_s:.0f} s more",
            hint="Run it again after that: a third process would cut them.",
        )
    session.transports[node].run(("kill", "-HUP", "--", str(status.pid)))
    deadline = time.monotonic() + WITHIN_S
    while (now := _life(session, node)) is None or now.epoch == before.epoch:
        if time.monotonic() > deadline:
            raise CommandError(
                f"no new router process took over within {WITHIN_S:.0f} s; the old one goes on",
                node=node,
                hint="`llmfleet logs router` shows why. One that an older llmfleet started cannot: "
                "`llmfleet down` and `up`.",
            )
        time.sleep(POLL_S)
    session.note(f"streams of the old process go on for up to {DRAIN_S // 60} minutes", node=node)


def _life(session: Session, node: str) -> RouterLife | None:
    page = fetch_on(session, node, server_url(session.fleet.plan.router.admin_port))
    return parse_server(page.body) if page.status == 200 else None
