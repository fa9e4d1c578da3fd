"""Fleets as manifests, and what manifests are held against."""

from __future__ import annotations

import gzip
import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from tests.unit.planning.fleets import inventory, planned

from llmfleet.launch.export.kinds import Export
from llmfleet.launch.export.kubernetes import kubernetes
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

CRDS = Path(__file__).parents[2] / "data" / "crds"
OF_KIND = {"LeaderWorkerSet": "leaderworkerset", "ServiceMonitor": "servicemonitors", "RayService": "rayservices"}
KUBERNETES = "1.34"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a fleet's manifests are long

ONE_NODE = """
cluster: small
nodes:
  - {name: n1, host: 10.0.0.1, gpus: 2 x RTX-4090}
services:
  - {name: chat, model: Qwen/Qwen2.5-7B-Instruct, traffic: {rate: 1, input: {mean: 500}, output: {mean: 100}}}
"""
SPANNING = """
cluster: wide
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "n[1-2]", host: "10.0.0.[2-3]", gpus: 4 x RTX-4090, nic: 25Gb/s}
services:
  - name: chat
    model: Qwen/Qwen1.5-72B-Chat
    traffic: {rate: 0.1, input: {mean: 500}, output: {mean: 100}}
    placement: [{nodes: [n1, n2], tp: 4, pp: 2}]
"""


def export(text: str, **options: Any) -> tuple[Inventory, Plan, Export]:
    fleet, plan = inventory(text), planned(text)
    return fleet, plan, kubernetes(fleet, plan, **options)


def documents(made: Export) -> list[dict[str, Any]]:
    return [part for name, text in made.files.items() if name.endswith(".yaml") for part in yaml.load_all(text, LOADER)]


def of_kind(made: Export, kind: str) -> list[dict[str, Any]]:
    return [part for part in documents(made) if part["kind"] == kind]


def workloads(made: Export) -> list[dict[str, Any]]:
    return of_kind(made, "StatefulSet") + of_kind(made, "LeaderWorkerSet")


def pods(workload: dict[str, Any]) -> list[dict[str, Any]]:
    """Templates of its pods, the one that answers first."""
    spec = workload["spec"]
    if workload["kind"] == "StatefulSet":
        return [spec["template"]]
    return [spec["leaderWorkerTemplate"]["leaderTemplate"], spec["leaderWorkerTemplate"]["workerTemplate"]]


def validate(part: dict[str, Any]) -> None:
    """Against the API server's schema, strictly; a custom resource against its definition's."""
    if part["kind"] == "Kustomization":
        assert set(part) == {"apiVersion", "kind", "namespace", "resources"}
    elif part["kind"] in OF_KIND:
        jsonschema.Draft202012Validator(crd(OF_KIND[part["kind"]])).validate(part)
    else:
        kubernetes_validate.validate(part, KUBERNETES, strict=True)


@lru_cache(maxsize=8)
def crd(name: str) -> dict[str, Any]:
    """The schema of a custom resource, with unknown keys refused: an API server drops them without a word."""
    body: dict[str, Any] = json.loads(gzip.decompress((CRDS / f"{name}.json.gz").read_bytes()))["schema"]
    _close(body)
    body["additionalProperties"] = True  # apiVersion, kind, metadata, as the server adds them
    return body


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        keys = schema.get("properties")
        free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
        if isinstance(keys, dict) and not free and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)
