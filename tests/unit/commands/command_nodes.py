"""Nodes to build commands for."""

from __future__ import annotations

from typing import Any

from llmfleet.launch.fleet import NodeFolder
from llmfleet.planner.inventory.model import Node, Runtime

FOLDER = NodeFolder("/home/ops/.llmfleet/rag/a800-0")


def node(name: str, gpus: str | None = "8 x A800-80G", **runtime: Any) -> Node:
    return Node(name=name, host=f"{name}.example", gpus=gpus, runtime=Runtime(python="/opt/vllm/bin/python", **runtime))
