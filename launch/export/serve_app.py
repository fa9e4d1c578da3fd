"""The plan as one application of Ray Serve: an LLMConfig for each kind of instance. Fields are those of Ray 2.60."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from llmfleet.launch.commands.devices import VISIBLE
from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.commands.vllm import engine_arguments
from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.router.names import served_names
from llmfleet.launch.router.xds import Json
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

RAY_VERSION: Final = "2.60.0"
OLDEST_VLLM: Final = (0, 29)  # ray[llm] 2.60 pins 0.29.0; older ones lack modules that its Serve LLM imports
CLASS_RESOURCE: Final = "llmfleet_class_"
SHARE: Final = 0.001  # of the class's resource: it says where, not how much
HTTP_PORT: Final = 8000
GRACE_S: Final = 900.0  # as long as the router lets a stream run on
BY_SESSION: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
CANDIDATES, PASSAGES = 20, 3
OF_VLLM: Final = ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_PP_LAYER_PARTITION", "VLLM_CPU_OMP_THREADS_BIND")


def in_serve_llm(kind: Kind) -> bool:
    """Whether Serve LLM runs its engine. Others are children of a deployment of our own."""
    release = tuple(int(n) for n in re.findall(r"[0-9]+", kind.one.engine_version)[:2])
    return kind.one.engine == "vllm" and release >= OLDEST_VLLM


def serve_config(inventory: Inventory, plan: Plan, kinds: Sequence[Kind], folder: NodeFolder) -> Json:
    """What `serve deploy` takes. `folder`: on every node; its bin has the application's Python files."""
    several = len({n for kind in kinds for i in kind.instances for n in i.nodes}) > 1
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": HTTP_PORT},  # noqa: S104 - of the cluster's own network
        "applications": [
            {
                "name": plan.cluster,
                "route_prefix": "/",
                "import_path": "serve_front:app",
                "runtime_env": {"env_vars": {"PYTHONPATH": folder.bin}},
                "args": {
                    "kinds": {kind.name: _kind(inventory, plan, kind, folder) for kind in kinds},
                    "rag": _rag(plan, kinds),
                    "ingress": {"num_replicas": 2 if several else 1, "ray_actor_options": {"num_cpus": 0.1}},
                },
            }
        ],
    }


def class_resource(kind: Kind) -> str:
    return f"{CLASS_RESOURCE}{kind.node_class}"


def _kind(inventory: Inventory, plan: Plan, kind: Kind, folder: NodeFolder) -> Json:
    names = served_names(plan, kind.one)
    if in_serve_llm(kind):
        return {"names": [*names], "llm_config": _llm_config(inventory, kind, names, folder)}
    return {"names": [*names], "engine": _engine(inventory, kind, names, folder), "options": _options(kind)}


def _llm_config(inventory: Inventory, kind: Kind, names: Sequence[str], folder: NodeFolder) -> Json:
    one = kind.one
    env = _process(inventory, kind, names, folder).env
    return {
        "model_loading_config": {"model_id": one.service, "model_source": _weights(inventory, kind)},
        "engine_kwargs": engine_arguments(one, kind.node),
        "placement_group_config": {
            "bundles": [_bundle(kind) for _ in range(one.tp * one.pp)],
            "strategy": "PACK" if one.spans_nodes else "STRICT_PACK",
        },
        "deployment_config": {"name": kind.name, **_load(kind), "ray_actor_options": {"num_cpus": 0}},
        "runtime_env": {
            "env_vars": {"PYTHONPATH": folder.bin, **{k: env[k] for k in OF_VLLM if k in env}, **kind.node.runtime.env}
        },
    }


def _bundle(kind: Kind) -> Json:
    """Of one rank."""
    gpu = {"GPU": 1} if kind.one.accelerator == "gpu" else {}
    return {"CPU": 1, **gpu, class_resource(kind): SHARE}


def _load(kind: Kind) -> Json:
    """The plan's concurrency is what a replica is to hold; as many replicas as it has instances are the most."""
    one, count = kind.one, len(kind.instances)
    affinity = one.task == "generate" and count > 1
    return {
        "autoscaling_config": {
            "min_replicas": 1,
            "initial_replicas": count,
            "max_replicas": count,
            "target_ongoing_requests": one.max_concurrency,
            "upscale_delay_s": 10,
            "downscale_delay_s": 600,
        },
        "max_ongoing_requests": one.max_concurrency,
        "max_queued_requests": one.max_concurrency,
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": GRACE_S,
        "graceful_shutdown_wait_loop_s": 2,
        **({"request_router_config": {"request_router_class": BY_SESSION}} if affinity else {}),
    }


def _options(kind: Kind) -> Json:
    gpus = kind.one.tp * kind.one.pp if kind.one.accelerator == "gpu" else 0
    where = {"num_cpus": 1, "num_gpus": gpus, "resources": {class_resource(kind): SHARE}}
    return {**_load(kind), "ray_actor_options": where}


def _engine(inventory: Inventory, kind: Kind, names: Sequence[str], folder: NodeFolder) -> Json:
    """The planned command as a process of the replica's own. Ray says which GPUs it sees."""
    made = _process(inventory, kind, names, folder)
    argv = [*made.argv]
    argv[argv.index("--port") + 1] = "{port}"
    gone = {*VISIBLE.values(), "CUDA_DEVICE_ORDER", "TMPDIR"}
    return {"argv": argv, "env": {k: v for k, v in sorted(made.env.items()) if k not in gone}}


def _process(inventory: Inventory, kind: Kind, names: Sequence[str], folder: NodeFolder) -> Process:
    """As on a node without containers: Ray itself may run in one."""
    node = kind.node.model_copy(update={"runtime": kind.node.runtime.model_copy(update={"kind": "process"})})
    placed = replace(kind.one, weights_path=_weights(inventory, kind))
    local = dict.fromkeys(placed.nodes, "127.0.0.1")
    return engine_process(placed, node, folder=folder, addresses=local, ray_address="127.0.0.1", names=names)


def _weights(inventory: Inventory, kind: Kind) -> str:
    return kind.one.weights_path.replace("{models}", inventory.models_dir.rstrip("/"))


def _rag(plan: Plan, kinds: Sequence[Kind]) -> Json | None:
    """None where one of the three tasks has no service."""
    tasks = {task: _by_service(plan, kinds, task) for task in ("embed", "rerank", "generate")}
    if not all(tasks.values()):
        return None
    return {**tasks, "candidates": CANDIDATES, "passages": PASSAGES}


def _by_service(plan: Plan, kinds: Sequence[Kind], task: str) -> dict[str, Mapping[str, int]]:
    found: dict[str, Mapping[str, int]] = {}
    for service in plan.services:
        mine = {k.name: sum(i.weight for i in k.instances) for k in kinds if k.one.service == service.name}
        if service.task == task and mine:
            found[service.name] = mine
    return found
