"""Fleets that the planning tests share."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from llmfleet.planner.catalog import catalog
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.make import make_plan
from llmfleet.planner.model.reader import model_from_config
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Plan, from_json, sealed, to_text

EXAMPLE = (Path(__file__).parents[3] / "inventory.example.yaml").read_text()
REFERENCE = (Path(__file__).parent / "reference.yaml").read_text()
TINY = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}  # fmt: skip

LAB = """
cluster: lab
runtime: {versions: {vllm: 0.32.0}}
nodes:
  - {name: front, host: 10.77.0.10}
  - {name: "h[1-4]", host: "10.77.0.[11-14]", gpus: 1 x CPU-3G}
services:
  - name: chat
    model: /models/tiny
    path: /models/tiny
    precision: [fp32]
    context: 2048
    traffic: {rate: 0.2, input: {mean: 100}, output: {mean: 50}}
    placement: [{nodes: [h1]}, {nodes: [h2]}, {nodes: [h3, h4], pp: 2}]
"""

LAPTOP = """
cluster: laptop
access: {transport: local}
nodes:
  - {name: front, host: 127.0.0.1, runtime: {dir: ~/.front}}
  - {name: slot-a, host: 127.0.0.1, gpus: 1 x CPU-2G, runtime: {dir: ~/.a}}
  - {name: slot-b, host: 127.0.0.1, gpus: 1 x CPU-2G, runtime: {dir: ~/.b}}
services:
  - name: chat
    model: /models/tiny
    engine: llama.cpp
    precision: [q4_k_m]
    source: models/tiny-q4_k_m.gguf
    context: 1024
    traffic: {rate: 0.5, input: {mean: 100}, output: {mean: 60}}
    placement: [{nodes: [slot-a]}, {nodes: [slot-b]}]
router: {port: 8100, admin_port: 8101}
engine_port: 8100
"""


def inventory(text: str) -> Inventory:
    return parse(text, "inventory.yaml")


@lru_cache(maxsize=32)
def model(name: str) -> Model:
    if name.startswith("/"):
        return model_from_config(TINY, name=name)
    known = catalog().model(name)
    assert known is not None, name
    return known


def models(fleet: Inventory) -> dict[str, Model]:
    return {service.name: model(service.model) for service in fleet.services}


@lru_cache(maxsize=64)
def planned(text: str) -> Plan:
    """Its hash is that of the plan that is read back: no figure is a whole number where another is not."""
    fleet = inventory(text)
    plan = make_plan(fleet, models(fleet))
    assert sealed(from_json(to_text(plan))) == plan
    return plan


@lru_cache(maxsize=1)
def reference() -> Plan:
    return planned(REFERENCE)
