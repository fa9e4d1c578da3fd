"""Engines: what should not run is stopped, what should is started, and then waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from llmfleet.launch.change.desired import member_names
from llmfleet.launch.change.steps import Step
from llmfleet.launch.events import StepDone
from llmfleet.launch.nodes.probe import ProcessStatus
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.processes import Statuses, ask_statuses, log_tail, start_step, stop_step
from llmfleet.launch.session import Session
from llmfleet.planner.errors import FleetError, HealthError, NodesError

POLL_S = 1.0
LOOK_BACK, LAST_LINES, CAUSES, LINE_WIDTH = 400, 6, 5, 300
CAUSE = re.compile(r"\b\w*(Error|Exception)\b: |\berror:|out of memory|Killed|No space left")
ECHO = re.compile(r"See root cause above|Engine core initialization failed")
NOTE_EVERY_S = 15.0
GRACE_S = 30.0
SUPERVISOR_MARGIN_S = 60.0  # it judges a start itself; this is for one that does not
NOT_NEEDED = "which is no longer needed"


def stale_steps(
    session: Session,
    desired: Iterable[Process],
    statuses: Statuses,
    *,
    kinds: Collection[str] = (),
    kept: Collection[tuple[str, str]] = (),
) -> list[Step]:
    """Stops processes of ours that should not run: recorded in the state, or found in our folder.

    `kinds`: of these only, where any is named. `kept`: not these, though they should not run for ever either.
    """
    wanted = {(p.node, p.name) for p in desired}
    recorded = {
        (r.node, r.name): r.kind for r in session.store.value.processes.values() if r.node in session.transports
    }
    found = {(node, name): s.kind for node, known in statuses.items() for name, s in known.items() if s.alive}
    planned = {(i.nodes[0], i.id) for i in session.fleet.plan.instances}
    stale = {key for key, kind in (recorded | found).items() if not kinds or kind in kinds}
    return [
        stop_step(
            session,
            node,
            name,
            grace_s=GRACE_S,
            title=f"stop {name}, {'whose nodes are not all there' if (node, name) in planned else NOT_NEEDED}",
        )
        for node, name in sorted(stale - wanted - finishing(session) - set(kept))
    ]


def finishing(session: Session) -> set[tuple[str, str]]:
    """Processes that still work off requests of a node whose drain has not come to its end: not ours to stop."""
    draining, plan = set(session.store.value.draining), session.fleet.plan
    instances = [i for i in plan.instances if draining & set(i.nodes)]
    return {(i.nodes[0], i.id) for i in instances} | member_names(instances, plan.head)


def start_steps(session: Session, processes: Iterable[Process], statuses: Statuses) -> list[Step]:
    return [start_step(session, process, statuses) for process in processes]


def wait_healthy(session: Session, processes: Sequence[Process]) -> None:
    """Returns when every process answers. Raises NodesError naming each that failed, with its last output."""
    waiting = list(processes)
    errors: list[FleetError] = []
    begun = told = time.monotonic()
    while waiting:
        for outcome in ask_statuses(session, sorted({p.node for p in waiting})):
            here = [p for p in waiting if p.node == outcome.item]
            if outcome.error is not None:
                errors.append(outcome.error)
            else:
                here = [p for p in here if _settled(session, p, outcome.value or {}, time.monotonic() - begun, errors)]
            waiting = [p for p in waiting if p not in here]
        if waiting and time.monotonic() - told >= NOTE_EVERY_S:
            told = time.monotonic()
            session.note(f"waiting for {', '.join(sorted(p.name for p in waiting))} ({told - begun:.0f} s)")
        if waiting:
            time.sleep(POLL_S)
    if errors:
        raise NodesError("starting", errors)


def _settled(
    session: Session, process: Process, known: Mapping[str, ProcessStatus], waited: float, errors: list[FleetError]
) -> bool:
    """Whether it need not be waited for any more, as it is healthy or has failed; the latter is added to `errors`."""
    status = known.get(process.name)
    if status is None or not status.alive:
        errors.append(start_error(session, process, status.reason if status else "its supervisor is gone"))
        return True
    if status.state == "healthy":
        session.fleet.observe(StepDone(process.node, f"{process.name} is healthy", changed=False))
        return True
    if waited > process.start_within_s + SUPERVISOR_MARGIN_S:
        errors.append(start_error(session, process, f"it is {status.state} after {waited:.0f} s"))
        return True
    return False


def start_error(session: Session, process: Process, reason: str) -> HealthError:
    lines = last_words(log_tail(session, process.node, process.name, LOOK_BACK))
    shown = "".join(f"\n    | {line}" for line in lines)
    return HealthError(
        f"{process.name} did not start: {reason}. Its last output:{shown or ' none.'}",
        node=process.node,
        hint=f"llmfleet logs {process.name} shows all of it; mend the cause and run `llmfleet up` again.",
    )


def last_words(lines: Sequence[str]) -> list[str]:
    """What a person looks for in a log that ends badly: lines that name an error, each once, and the very last lines.

    Engines of several processes print the cause first and then many lines that only point back to it.
    """
    end = list(lines[-LAST_LINES:])
    causes = dict.fromkeys(line for line in lines[:-LAST_LINES] if CAUSE.search(line) and not ECHO.search(line))
    return [line[:LINE_WIDTH] for line in (*list(causes)[-CAUSES:], *end)]
