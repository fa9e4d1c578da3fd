"""Starting, stopping and seeing our processes on nodes, through the supervisor script that lies there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llmfleet.launch.change.steps import Step
from llmfleet.launch.fleet import SUPERVISE
from llmfleet.launch.nodes.probe import ProcessStatus, parse_statuses
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.phases.scripts import scripts
from llmfleet.launch.pool import Outcome, on_each, raise_failures
from llmfleet.launch.record.state import ProcessRecord
from llmfleet.launch.session import Session
from llmfleet.launch.transport.base import Completed
from llmfleet.planner.errors import CommandError, FleetError

Statuses = Mapping[str, Mapping[str, ProcessStatus]]  # node → process name → status
START_WITHIN_S = 120.0  # the first attempt, after leftovers of an earlier life were ended: most of it on a busy node
STOP_MARGIN_S = 15.0  # for the supervisor itself, on top of the process's own grace
NO_SCRIPT = 2
PYTHON_HINT = "Does `runtime: python` work there, and is its disk full?"


def supervise(session: Session, node: str, *words: str, timeout: float = 60.0) -> Completed:
    """Where the script is gone from the node, it goes along: what it started may run on all the same."""
    python, transport = session.node(node).runtime.python, session.transports[node]
    done = transport.run((python, session.folders[node].script(SUPERVISE), *words), timeout=timeout)
    if done.ok or words[0] == "start" or not without_script(done):
        return done
    return transport.run((python, "-", *words), stdin=scripts()[SUPERVISE].decode(), timeout=timeout)


def without_script(done: Completed) -> bool:
    """Whether Python found no script to run."""
    return done.exit_code == NO_SCRIPT and "can't open file" in done.stderr


def read_statuses(session: Session, nodes: Iterable[str]) -> Statuses:
    """What supervisors say, node by node, asked side by side. A node without our folder has no processes."""
    outcomes = ask_statuses(session, nodes)
    raise_failures("reading process states", outcomes)
    return {o.item: o.value or {} for o in outcomes}


def ask_statuses(session: Session, nodes: Iterable[str]) -> list[Outcome[str, Mapping[str, ProcessStatus]]]:
    """The same, for those who go on without the nodes that do not answer."""
    return on_each(list(nodes), lambda node: _read_node(session, node))


def _read_node(session: Session, node: str) -> Mapping[str, ProcessStatus]:
    folder = session.folders[node]
    listing = session.transports[node].run(("ls", "-1", folder.run))
    names = listing.stdout.split() if listing.ok else []
    if not names:
        return {}
    answer = supervise(session, node, "status", *(folder.process(n) for n in names))
    if not answer.ok:
        raise CommandError(f"its process states cannot be read: {last_line(answer)}", node=node, hint=PYTHON_HINT)
    try:
        return {s.name: s for s in parse_statuses(answer.stdout)}
    except ValueError as error:
        raise CommandError(f"its process states make no sense: {error}", node=node, hint=PYTHON_HINT) from None


def start_step(session: Session, process: Process, statuses: Statuses) -> Step:
    """Starts the process, or restarts it where it runs with another command line. One whose unit somebody enabled or
    disabled by hand is only put right."""
    status = statuses.get(process.node, {}).get(process.name)
    alive = status is not None and status.alive
    same = status is not None and alive and status.state != "stopping" and status.digest == process.digest
    odd = same and status is not None and status.at_boot not in (None, process.at_boot)
    title = f"{'restart' if alive and not same else 'start'} {process.name}"
    if odd:
        title = f"have systemd {'' if process.at_boot else 'not '}start {process.name} at boot"

    def apply() -> None:
        if alive and not same:
            stop(session, process.node, process.name, grace_s=process.stop_grace_s)
        start(session, process)

    return Step(process.node, title, needed=lambda: not same or odd, apply=apply)


def start(session: Session, process: Process) -> None:
    """Recorded before and after, so that a run killed in between is found by the next one."""
    folder = session.folders[process.node].process(process.name)
    plan = session.fleet.plan.hash
    record = ProcessRecord(process.node, process.name, process.kind, process.digest, "starting", plan)
    session.store.put_process(record)
    session.transports[process.node].put(json.dumps(process.spec(), indent=1).encode(), f"{folder}/spec.json")
    done = supervise(session, process.node, "start", folder, timeout=START_WITHIN_S)
    if not done.ok:
        raise CommandError(
            f"{process.name} could not be started: {last_line(done)}",
            node=process.node,
            hint=f"Its output is in {folder}/log on the node.",
        )
    session.store.put_process(replace(record, state="started"))


def stop_step(session: Session, node: str, name: str, *, grace_s: float, title: str = "") -> Step:
    def apply() -> None:
        stop(session, node, name, grace_s=grace_s)

    return Step(node, title or f"stop {name}", needed=lambda: True, apply=apply)


def stop(session: Session, node: str, name: str, *, grace_s: float) -> None:
    """Returns when the process and its children are gone; its log stays."""
    folder = session.folders[node].process(name)
    done = supervise(session, node, "stop", folder, "--grace", str(int(grace_s)), timeout=grace_s + STOP_MARGIN_S)
    if not done.ok:
        raise CommandError(f"{name} could not be stopped: {last_line(done)}", node=node, hint=PYTHON_HINT)
    session.store.drop_process(f"{node}/{name}")


def log_tail(session: Session, node: str, name: str, lines: int = 15) -> Sequence[str]:
    """The last lines of a process's output, for error messages; empty when there are none to be had."""
    path = f"{session.folders[node].process(name)}/log"
    try:
        done = session.transports[node].run(("tail", "-n", str(lines), path))
    except FleetError:
        return []
    return done.stdout.splitlines() if done.ok else []


def last_line(done: Completed) -> str:
    text = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return text[-1] if text else f"exit code {done.exit_code}"
