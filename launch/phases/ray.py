"""The Ray cluster that carries instances over several nodes, and whether it has exactly the planned nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from llmfleet.launch.change import desired
from llmfleet.launch.commands.ray import parse_ray_status, ray_status_command
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.processes import log_tail
from llmfleet.launch.ray_serve.application import kinds_planned
from llmfleet.launch.ray_serve.members import ray_processes, working
from llmfleet.launch.session import Session
from llmfleet.planner.errors import HealthError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

Where = tuple[Mapping[str, Node], Mapping[str, NodeFolder], Mapping[str, str]]
JOIN_WITHIN_S = 300.0  # Ray takes ten seconds to start; on a starved node some minutes
POLL_S = 2.0


def members(session: Session, instances: Iterable[Instance], where: Where) -> tuple[Process, ...]:
    """Ray's head and workers, and the ranks of engines over several nodes, for these instances. `where`: nodes,
    folders and addresses by name."""
    if session.on_ray_serve:
        kinds = working(kinds_planned(session), {n for i in instances for n in i.nodes})
        return ray_processes(session.fleet.plan.head, kinds, *where)
    return desired.ray_processes(session.fleet.plan, instances, *where)


def ray_nodes(session: Session, head: Process) -> tuple[str, ...] | None:
    """Names of the fleet's nodes in `ray status`, each of which brings a resource of its own; None: no answer."""
    argv = ray_status_command(session.node(head.node), head.env["RAY_ADDRESS"])
    answer = session.transports[head.node].run(argv, timeout=60)
    return parse_ray_status(answer.stdout) if answer.ok else None


def wait_joined(session: Session, processes: Iterable[Process]) -> None:
    """Raises HealthError naming the nodes that did not join in time."""
    processes = tuple(p for p in processes if p.kind != "rank")  # ranks wait for each other themselves
    if not processes:
        return
    head = processes[0]
    expected = {p.node for p in processes if p.kind == "ray-worker"}
    deadline = time.monotonic() + JOIN_WITHIN_S
    while True:
        present = ray_nodes(session, head)
        missing = expected - set(present or ())
        if present is not None and not missing:
            return
        if time.monotonic() > deadline:
            raise _error(session, head, missing, answered=present is not None)
        time.sleep(POLL_S)


def _error(session: Session, head: Process, missing: set[str], *, answered: bool) -> HealthError:
    where = sorted(missing)[0] if answered else head.node
    name = "ray-worker" if answered else head.name
    shown = "".join(f"\n    | {line}" for line in log_tail(session, where, name))
    what = f"{', '.join(sorted(missing))} did not join the Ray cluster" if answered else "the Ray head does not answer"
    return HealthError(
        f"{what} within {JOIN_WITHIN_S:.0f} s. Last output of {name}:{shown or ' none.'}",
        node=where,
        hint="Can the node reach the head's Ray port, with the same Ray version? `llmfleet up` goes on from here.",
    )
