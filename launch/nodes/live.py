"""The live picture of nodes: what runs on each, and how loaded its engines are, asked side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmfleet.launch.fleet import PROBE
from llmfleet.launch.nodes.probe import NodeProbe, parse_probe
from llmfleet.launch.nodes.processes import PYTHON_HINT, last_line, without_script
from llmfleet.launch.pool import on_each
from llmfleet.launch.session import Session
from llmfleet.planner.errors import FleetError

PROBE_TIMEOUT_S = 15.0


def probe_nodes(session: Session, nodes: Iterable[str]) -> Mapping[str, NodeProbe]:
    """By node. A node that gives no answer, or one without sense, is left out and noted in `session.lost`."""
    outcomes = on_each(sorted(nodes), lambda node: _probe(session, node))
    for outcome in outcomes:
        if outcome.error is not None:
            session.lost[outcome.item] = outcome.error
    return {o.item: o.value for o in outcomes if o.value is not None}


def _probe(session: Session, node: str) -> NodeProbe:
    python, folder = session.node(node).runtime.python, session.folders[node]
    answer = session.transports[node].run((python, folder.script(PROBE), folder.root), timeout=PROBE_TIMEOUT_S)
    if not answer.ok:
        if without_script(answer):
            return NodeProbe()  # nothing of ours is there
        raise FleetError(f"it could not say what runs there: {last_line(answer)}", node=node, hint=PYTHON_HINT)
    try:
        return parse_probe(answer.stdout)
    except ValueError as error:
        raise FleetError(
            f"the node's answer makes no sense: {error}", node=node, hint="`llmfleet up` copies the scripts again."
        ) from None
