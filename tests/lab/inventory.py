"""inventory.yaml for the lab's hosts: how to reach them, what they run, and services that fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tests.lab.engines import ENGINE_ENV, EngineEnv
from tests.lab.lab import Lab

SLOT = "1 x CPU-2G"  # every host but the head has one


def inventory_yaml(
    lab: Lab,
    env: EngineEnv,
    services: Sequence[Mapping[str, Any]],
    *,
    gpus: Mapping[str, str | None] | None = None,
    **keys: Any,
) -> str:
    """The text of an inventory of all the lab's hosts.

    `gpus`: of single hosts, where they are not to be one CPU slot (none on `head`). `keys` are added to the whole file.
    """
    slots: dict[str, str | None] = {name: None if name == "head" else SLOT for name in lab.hosts} | dict(gpus or {})
    nodes = [{"name": host.name, "host": host.address, "gpus": slots[host.name]} for host in lab.hosts.values()]
    whole = {
        "cluster": "lab",
        "access": {"user": "root", "key": str(lab.key), "known_hosts": str(lab.known_hosts)},
        "runtime": {
            "python": str(env.python),
            "env": dict(ENGINE_ENV),
            "versions": {"vllm": "0.32.0", "llama.cpp": "0.0.11549"},
            "interface": "eth0",
        },
        "nodes": nodes,
        "services": [dict(service) for service in services],
        **keys,
    }
    return yaml.safe_dump(whole, sort_keys=False)


def chat(env: EngineEnv, *placement: Sequence[str], **keys: Any) -> dict[str, Any]:
    """The chat service, one instance on each of the given groups of hosts: several hosts make one pipeline."""
    return _service("chat", "generate", str(env.chat), 2048, placement) | keys


def embed(env: EngineEnv, *placement: Sequence[str], **keys: Any) -> dict[str, Any]:
    return _service("embed", "embed", str(env.embed), 256, placement) | keys


def rerank(env: EngineEnv, *placement: Sequence[str], **keys: Any) -> dict[str, Any]:
    return _service("rerank", "rerank", str(env.rerank), 256, placement) | keys


def story(env: EngineEnv, *placement: Sequence[str], **keys: Any) -> dict[str, Any]:
    """A chat service on llama.cpp."""
    service = {
        "name": "story",
        "model": "google/gemma-3-270m",
        "engine": "llama.cpp",
        "precision": ["q4_k_m"],
        "path": str(env.story),
        "context": 1024,
        "placement": [{"nodes": list(nodes)} for nodes in placement],
    }
    return service | keys


def _service(name: str, task: str, folder: str, context: int, placement: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "name": name,
        "model": folder,
        "path": folder,
        "task": task,
        "engine": "vllm",
        "precision": ["fp32"],  # in bf16 a short first request kills vLLM's CPU worker
        "context": context,
        "enforce_eager": True,  # compiling costs minutes on two cores
        "placement": [{"nodes": list(nodes)} for nodes in placement],
    }
