"""Questions to a plan: two more nodes, one less, twice the traffic. Terms change an inventory in memory, no file."""

from __future__ import annotations

from collections.abc import Sequence

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog import catalog as packaged
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.findings import path
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.service_checks import service_findings
from llmfleet.planner.inventory.shapes import shown
from llmfleet.planner.what_if.nodes import NodeTerms
from llmfleet.planner.what_if.values import draft_of_services, with_value, without_service

EXAMPLES = (
    '"+2 h20", "+1 8 x H100-80G", "-2 v100", "-node a800-1", "-gpu a800-0:3", "-service embed", '
    '"chat.rate=2x", "chat.slo.ttft=1s", "chat.model=Qwen/Qwen2.5-72B-Instruct", "policy.redundancy=1"'
)


def ask(terms: Sequence[str], inventory: Inventory, catalog: Catalog | None = None) -> Inventory:
    """The inventory as it would be, terms applied from left to right.

        +N CLASS         N more nodes like those of a class (its name, one of its nodes, or its GPU's name)
        +N COUNT x GPU   N nodes of another kind, as `gpus:` writes it
        -N CLASS         the last N nodes of the class are gone
        -node NAME       this node is gone; a range means all of them
        -gpu NODE:I,J    these GPUs are faulty
        -service NAME    nobody asks for it
        SERVICE.KEY=V    any key of a service; rate, peak, input, output, shared_prefix, ttft, tpot and percentile
                         need not say where they stand; `2x` multiplies what is there
        policy.KEY=V     any key of the policy

    Raises InputError with all terms that cannot be applied.
    """
    nodes = NodeTerms(inventory, catalog or packaged())
    wrong: list[str] = []
    changed = inventory
    for term in terms:
        try:
            changed = _applied(term.strip(), changed, nodes)
        except InputError as error:
            wrong.append(f"{shown(term)}: {error.message}" + (f" {error.hint}" if error.hint else ""))
    wrong += [] if wrong else _contradictions(changed)
    if wrong:
        raise InputError("what if " + "\n  what if ".join(wrong), hint=f"Terms look like these: {EXAMPLES}")
    return changed


def _applied(term: str, inventory: Inventory, nodes: NodeTerms) -> Inventory:
    if gone := term.removeprefix("-").strip() if term.startswith("-") else "":
        word, _, rest = gone.partition(" ")
        if word == "service":
            return without_service(rest.strip(), inventory)
    if term.startswith(("+", "-")):
        return nodes.applied(term, inventory)
    target, equals, value = term.partition("=")
    if not equals:
        raise InputError("is no term: it starts with neither + nor -, and has no =.")
    return with_value(target.strip(), value.strip(), inventory)


def _contradictions(inventory: Inventory) -> list[str]:
    """What the terms say together: no node at all, lengths that cross, a fallback of another task. The inventory
    itself had none of that."""
    said = [] if any(not node.exclude for node in inventory.nodes) else ["no node is left."]
    for found in service_findings(draft_of_services(inventory)):
        _, index, *keys = found.loc
        service = inventory.services[int(index)].name
        said.append(f"{service}.{path(tuple(keys))}: {found.message} {found.hint}".rstrip())
    return said
