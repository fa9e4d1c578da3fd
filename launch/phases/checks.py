"""What must hold before anything is changed. Everything that does not is told at once, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmfleet.launch.doctor.checks import node_results, views
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.launch.phases.router import client_keys
from llmfleet.launch.session import Session
from llmfleet.planner.errors import CommandError, FleetError, NodesError
from llmfleet.planner.plan import Instance


def check(session: Session, nodes: Sequence[str], instances: Sequence[Instance]) -> None:
    """Raises NodesError with everything that failed; notes what only deserves a warning. See launch/doctor."""
    client_keys(session.fleet)  # a file that cannot be read is told now, not when all engines are up
    errors: list[FleetError] = []
    for view in views(session, nodes, instances):
        view = replace(view, facts=_but_our_ports(session, view.facts))
        for result in node_results(view):
            if result.status == "warn":
                session.note(result.detail, node=view.node.name, level="warning")
            elif result.status == "fail":
                errors.append(CommandError(result.detail, node=view.node.name, hint=result.hint))
    if errors:
        raise NodesError("checks", errors)


def _but_our_ports(session: Session, facts: NodeFacts) -> NodeFacts:
    """Where nodes share a machine, an engine of one may hold the port that the new plan gives to another: it is ours,
    and will have left by the time."""
    roots = {f"{folder.root}/" for folder in session.folders.values()}
    return replace(facts, ports=tuple(p for p in facts.ports if not any((p.marker or "").startswith(r) for r in roots)))
