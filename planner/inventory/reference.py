"""The tables of docs/inventory.md, from the schema: `python -m llmfleet.planner.inventory.reference` prints them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from llmfleet.planner.inventory.schema import json_schema


def tables() -> dict[str, str]:
    """Markdown tables, one row a key, by the name of the model; the file itself is "inventory.yaml"."""
    schema = json_schema()
    return {"inventory.yaml": _table(schema)} | {name: _table(model) for name, model in schema["$defs"].items()}


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [_row(key, value, key in required) for key, value in schema["properties"].items()]
    return "\n".join(["| key | value | if left out | what it is |", "|---|---|---|---|", *rows]) + "\n"


def _row(key: str, value: Mapping[str, Any], required: bool) -> str:
    default = "**an error**" if required else _default(value.get("default"))
    cells = (f"`{key}`", _kind(value), default, value["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(value: Mapping[str, Any]) -> str:
    choices = [choice for choice in value.get("anyOf", ()) if choice != {"type": "null"}]
    if "examples" in value:
        return " or ".join(f"`{example}`" for example in value["examples"])
    if choices:
        return _kind(choices[0])
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{word}`" for word in value.get("enum", [value.get("const")]))
    if value["type"] == "array":
        return f"list of {_kind(value['items'])}"
    words = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "object": "keys and values"}
    return words.get(value["type"], "text") + _bounds(value)


def _bounds(value: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f", {word} {value[key]:.10g}" for key, word in words.items() if key in value)


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key}: {item}" for key, item in value.items() if item != []) + "}`"
    return "" if value in (None, []) else f"`{value:.10g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write("\n".join(f"{name}\n\n{table}" for name, table in tables().items()))
