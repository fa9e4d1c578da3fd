"""Replacing what runs, wave by wave: out of the router, requests finish, the old stops, the new starts and is seen
healthy, and only then the next. Nothing is kept in mind between two runs: what runs says how far it has come."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from llmfleet.launch.change import desired
from llmfleet.launch.change.roll import Engine, Roll, Wave, some
from llmfleet.launch.change.roll_router import transition
from llmfleet.launch.change.steps import Step
from llmfleet.launch.nodes.engine_load import router_loads
from llmfleet.launch.nodes.finish import wait_idle
from llmfleet.launch.nodes.process import MEMBERS, Process
from llmfleet.launch.nodes.processes import read_statuses, start_step, stop_step
from llmfleet.launch.phases import instances, ray, router
from llmfleet.launch.session import Session
from llmfleet.planner.errors import HealthError
from llmfleet.planner.plan import Plan

ROUTED_WITHIN_S = 30.0
POLL_S = 0.5
FINISH_HINT = "They get no new ones. `llmfleet up` waits on; --drain-timeout says how long; --force cuts them off."


@dataclass(frozen=True, slots=True)
class Waves:
    """`names`: of the fleet's engines, as wanted, by id. `dry_run`: steps are listed, nothing is waited for."""

    session: Session
    roll: Roll
    ray: Sequence[Process]
    drain_timeout_s: float
    force: bool = False
    dry_run: bool = False

    def rounds(self) -> Iterator[list[Step]]:
        stopped: set[tuple[str, str]] = set()
        started: set[str] = set()
        for wave in self.roll.waves:
            out, new = some([e.name for e in wave.out]), some([p.name for p in wave.start])
            yield self._router_steps(f"take {out} out of rotation", stopped, started, wave)
            self._finish(wave)
            yield [self._stop_step(engine) for engine in wave.out]
            stopped |= {e.key for e in wave.out}
            yield from self._restart_ray(wave)
            yield self._start_steps(wave.start)
            self._healthy(wave.start)
            started |= {p.name for p in wave.start}
            yield self._router_steps(f"give requests to {new}" if new else f"forget {out}", stopped, started)
            self._routed({p.name for p in wave.start})

    def _router_steps(
        self, title: str, stopped: Collection[tuple[str, str]], started: Collection[str], wave: Wave | None = None
    ) -> list[Step]:
        session = self.session
        leaving = {e.name for e in wave.out} if wave else set[str]()
        plan = served(session.fleet.plan, self.roll, stopped=stopped, started=started)

        def apply(node: str) -> None:
            files = router.desired_files(session, node, plan, leaving)
            router.put_files(session, node, files, router.differing(session, node, files))

        nodes = router.reached_routers(session)
        return [Step(node, title, needed=lambda: True, apply=partial(apply, node)) for node in nodes]

    def _finish(self, wave: Wave) -> None:
        if not self.dry_run:
            engines = [e.key for e in wave.out]
            wait_idle(self.session, engines, timeout_s=self.drain_timeout_s, hint=FINISH_HINT, force=self.force)

    def _stop_step(self, engine: Engine) -> Step:
        planned = any(i.id == engine.name and i.nodes[0] == engine.node for i in self.session.fleet.plan.instances)
        why = "to be replaced" if planned else instances.NOT_NEEDED
        title = f"stop {engine.name}, {why}"
        return stop_step(self.session, engine.node, engine.name, grace_s=desired.STOP_GRACE_S, title=title)

    def _restart_ray(self, wave: Wave) -> Iterator[list[Step]]:
        """Head first: workers join it."""
        for kind in MEMBERS:
            if wanted := [p for p in wave.ray if p.kind == kind]:
                yield self._start_steps(wanted)
        if wave.ray and not self.dry_run:
            ray.wait_joined(self.session, self.ray)

    def _start_steps(self, processes: Sequence[Process]) -> list[Step]:
        """As they are now: what had the name before is gone, in a dry run only as if."""
        if not processes:
            return []
        statuses = {} if self.dry_run else read_statuses(self.session, sorted({p.node for p in processes}))
        return [start_step(self.session, process, statuses) for process in processes]

    def _healthy(self, processes: Sequence[Process]) -> None:
        if processes and not self.dry_run:
            instances.wait_healthy(self.session, processes)

    def _routed(self, names: set[str]) -> None:
        if names and not self.dry_run:
            wait_routed(self.session, names)


def served(plan: Plan, roll: Roll, *, stopped: Collection[tuple[str, str]] = (), started: Collection[str] = ()) -> Plan:
    """What the router serves at a moment of the roll; the plan itself once all is done."""
    standing = [e.instance for e in roll.leaving if e.instance is not None and e.key not in stopped]
    waiting = roll.waiting - set(started)
    return transition(plan, standing, waiting) if standing or waiting else plan


def wait_routed(session: Session, names: Collection[str]) -> None:
    """Returns when the router's own health checks reach these instances; HealthError naming those they do not."""
    deadline = time.monotonic() + ROUTED_WITHIN_S
    while True:
        loads = router_loads(session) or {}
        unseen = {name for name in names if name not in loads or loads[name].flags}
        if not unseen:
            return
        if time.monotonic() > deadline:
            raise HealthError(
                f"the router cannot reach {', '.join(sorted(unseen))}",
                node=session.fleet.plan.head,
                hint="Is there a firewall between the head and their nodes?",
            )
        time.sleep(POLL_S)
