"""Asking machines what they are: one connection and one question each, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from llmfleet.launch.discover.found import Found, found, names
from llmfleet.launch.discover.hosts import Machine
from llmfleet.launch.nodes.facts import NodeFacts, facts_command, facts_request, facts_script, parse_facts
from llmfleet.launch.pool import on_each
from llmfleet.launch.transport import open_transport
from llmfleet.planner.errors import CommandError, FleetError
from llmfleet.planner.inventory.model import Node, Runtime

TIMEOUT_S = 120.0
NOT_FOUND = 127
MODELS_DIR = "/models"


def discover(machines: Sequence[Machine], *, python: str) -> tuple[tuple[Found, ...], tuple[FleetError, ...]]:
    """What was found, in the order of the machines, and an error for each that could not be asked."""
    outcomes = on_each(machines, lambda machine: _ask(machine, python))
    answers = [(o.item, o.value) for o in outcomes if o.value is not None]
    called = names(answers)
    return (
        tuple(found(machine, called[machine.asked], facts) for machine, facts in answers),
        tuple(o.error for o in outcomes if o.error is not None),
    )


def _ask(machine: Machine, python: str) -> NodeFacts:
    node = Node.model_construct(name=machine.asked, host=machine.asked, access=machine.access, runtime=Runtime())
    transport = open_transport(node)
    try:
        request = facts_request(paths=[transport.home(), MODELS_DIR], discover=True)
        answer = transport.run(facts_command(python, request), stdin=facts_script(), timeout=TIMEOUT_S)
    finally:
        transport.close()
    if answer.exit_code == NOT_FOUND:
        raise CommandError(f"there is no Python at {python}", node=machine.asked, hint="Name one with --python.")
    try:
        return parse_facts(answer.stdout)
    except ValueError:
        said = (answer.stderr.strip() or answer.stdout.strip() or "nothing").splitlines()[-1]
        raise CommandError(f"asked what it is, it said: {said[:200]}", node=machine.asked) from None
