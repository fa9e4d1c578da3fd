"""A small valid inventory, and what parse says of a broken one."""

from __future__ import annotations

from llmfleet.planner.errors import InventoryError, Problem
from llmfleet.planner.inventory.parse import parse

KNOWN = ("A800-80G", "A100-80G", "V100-32G", "H20-96G", "P100-16G")

NODES = """\
nodes:
  - {name: head, host: 10.0.0.10}
  - {name: "a800-[0-1]", host: "10.0.1.[10-11]", gpus: 8 x A800-80G}
"""
SERVICES = """\
services:
  - {name: chat, model: a/b, fallback: chat-lite}
  - {name: chat-lite, model: a/c}
  - {name: embed, model: a/d, task: embed}
"""
VALID = f"cluster: rag\n{NODES}{SERVICES}"


def known_gpu(name: str) -> tuple[bool, tuple[str, ...]]:
    return name in KNOWN, ("A800-80G", "A100-80G")


def problems(text: str | bytes) -> tuple[Problem, ...]:
    try:
        parse(text, known_gpu=known_gpu)
    except InventoryError as error:
        return error.problems
    return ()


def said(text: str | bytes) -> list[str]:
    """The problems as a person reads them, without the name of the file."""
    return [str(problem).removeprefix("inventory.yaml").removeprefix(":") for problem in problems(text)]


def with_node(entry: str) -> str:
    return f"cluster: rag\n{NODES}  - {entry}\n{SERVICES}"


def with_service(entry: str) -> str:
    return f"{VALID}  - {entry}\n"
