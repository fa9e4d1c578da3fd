"""The JSON Schema of inventory.yaml as people write it, for editors: `python -m llmfleet.planner.inventory.schema`."""

from __future__ import annotations

import json
import sys
from typing import Any

from llmfleet.planner.inventory.written import InventoryFile

FIRST = ("cluster", "access", "runtime", "nodes", "services")


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. It knows keys, types, units and spellings; what depends on other parts of the file it cannot."""
    schema = _tidy(InventoryFile.model_json_schema(mode="validation"))
    keys = schema["properties"]
    schema["properties"] = {key: keys[key] for key in FIRST} | keys
    for key in ("nodes", "services"):
        keys[key]["minItems"] = 1
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "llmfleet inventory", **schema}


def _tidy(schema: Any) -> Any:
    """Without what pydantic writes for machines: titles that repeat keys, null defaults, choices within choices."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value) for key, value in schema.items() if value is not None and not _is_title(key, value)}
    if any("anyOf" in choice for choice in tidy.get("anyOf", ())):
        (inner,) = (choice for choice in tidy["anyOf"] if "anyOf" in choice)
        others = [choice for choice in tidy["anyOf"] if choice is not inner]
        tidy = inner | tidy | {"anyOf": [*inner["anyOf"], *others]}
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False
    return tidy


def _is_title(key: str, value: Any) -> bool:
    return key == "title" and isinstance(value, str)


def text() -> str:
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
