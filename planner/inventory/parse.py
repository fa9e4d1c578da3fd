"""From the text of inventory.yaml to an Inventory, or to all of its mistakes with their places."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmfleet.planner.errors import InventoryError, Problem
from llmfleet.planner.inventory.draft import Draft, KnownGpu, draft_of
from llmfleet.planner.inventory.findings import Finding, path
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.node_checks import node_findings, node_warnings
from llmfleet.planner.inventory.salvage import parts_of, salvage
from llmfleet.planner.inventory.secrets import secret_findings
from llmfleet.planner.inventory.service_checks import service_findings
from llmfleet.planner.inventory.source import Located, read
from llmfleet.planner.inventory.wording import finding
from llmfleet.planner.inventory.written import InventoryFile

MOST_PROBLEMS = 200


def parse(
    text: str | bytes,
    file: str = "inventory.yaml",
    *,
    known_gpu: KnownGpu | None = None,
    nodes_only: bool = False,
) -> Inventory:
    """The inventory with ranges expanded, units resolved and defaults merged into each node.

    `file` is how problems call it. `known_gpu(name)` says whether the catalogue knows a GPU, and the nearest names
    where it does not; without it any name passes. `nodes_only`: services may still be missing.
    Raises InventoryError with all problems of the file, in its order.
    """
    root = read(text, file)
    values = root.plain()
    if nodes_only and isinstance(values, dict) and values.get("services") is None:
        values = {**values, "services": []}
    whole, errors = _validated(values)
    invalid = {error["loc"][:steps] for error in errors for steps in (2, 3)}
    draft = draft_of(parts_of(whole) if whole else salvage(values, invalid), values, invalid, known_gpu)
    secrets = list(secret_findings(values))
    shown = [error for error in errors if error["loc"] not in {found.loc for found in secrets}]  # they repeat the value
    found = [finding(error, InventoryFile) for error in _earliest(shown, root)]
    across = chain(node_findings(draft), service_findings(draft, may_lack=nodes_only), secrets)
    found += islice(across, MOST_PROBLEMS + 1)
    if found or whole is None:
        raise InventoryError(_problems(found, root, file))
    return _inventory(whole, draft, _problems(islice(node_warnings(draft), MOST_PROBLEMS + 1), root, file))


def located(findings: Iterable[Finding], text: bytes | None, file: str) -> list[Problem]:
    """Findings of others about a file that parses, such as of the models it names, with their places; without them
    where the text is gone, as that of a pipe."""
    if text is None:
        return [Problem(file, 0, 0, path(found.loc), found.message, found.hint) for found in findings]
    return _problems(findings, read(text, file), file)


def _validated(values: Any) -> tuple[InventoryFile | None, list[ErrorDetails]]:
    try:
        return InventoryFile.model_validate(values), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _earliest(errors: list[ErrorDetails], root: Located) -> list[ErrorDetails]:
    """One more than are shown, so that the last line can say so."""
    return sorted(errors, key=lambda error: root.place(error["loc"]))[: MOST_PROBLEMS + 1]


def _problems(findings: Iterable[Finding], root: Located, file: str) -> list[Problem]:
    """In the order of the file."""
    problems = sorted((_problem(each, root, file) for each in findings), key=lambda p: (p.line, p.column))
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [Problem(file, 0, 0, "", f"has more problems than these {MOST_PROBLEMS}.")]
    return problems


def _problem(found: Finding, root: Located, file: str) -> Problem:
    line, column = root.place(found.loc, of_key=found.at_key)
    first = f" First on line {root.place(found.first)[0]}." if found.first else ""
    return Problem(file, line, column, path(found.loc), found.message + first, found.hint)


def _inventory(whole: InventoryFile, draft: Draft, warnings: Iterable[Problem]) -> Inventory:
    shared = {key: getattr(whole, key) for key in Inventory.model_fields if key in InventoryFile.model_fields}
    nodes = tuple(node for entry in draft.entries for node in entry.nodes())
    return Inventory.model_construct(**(shared | {"nodes": nodes, "warnings": tuple(map(str, warnings))}))
