"""The plan as one application of Ray Serve: an LLMConfig for each kind of instance. Fields are those of Ray 2.60."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from llmfleet.launch.commands.devices import VISIBLE
from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.commands.vllm import engine_arguments
from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.router.names import served_names
from llmfleet.launch.router.xds import Json
from llmfleet.planner.plan import Instance, Plan

RAY_VERSION: Final = "2.60.0"
OLDEST_VLLM: Final = (0, 29)  # ray[llm] 2.60 pins 0.29.0; older ones lack modules that its Serve LLM imports
CLASS_RESOURCE: Final = "llmfleet_class_"
FRONT_RESOURCE: Final = "llmfleet_front"
SHARE: Final = 0.001  # of the class's resource: it says where, not how much
HTTP_PORT: Final = 8000
GRACE_S: Final = 900.0  # as long as the router lets a stream run on
STARTS: Final = 3  # may fail of a kind before one has not; Serve itself tries three for each replica, up to 20
BY_SESSION: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
CANDIDATES, PASSAGES = 20, 3
OF_VLLM: Final = ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_PP_LAYER_PARTITION", "VLLM_CPU_OMP_THREADS_BIND")

# vLLM's own would close Serve's handlers, and a replica without them is given up when the controller comes back.
OWN_LOGGING: Final = {"VLLM_CONFIGURE_LOGGING": "0"}


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie on every node. `python`: of the application's files, where `ray start` does not say so."""

    root: str
    models: str
    python: str | None = None


def exported_places(root: str, models: str) -> Places:
    """The same folder on all nodes."""
    return Places(root, models.rstrip("/"), NodeFolder(root).bin)


# Every node has a folder of its own: serve_pieces.py puts it in there.
OWN_PLACES: Final = Places("{home}", "{home}/models")


def in_serve_llm(kind: Kind) -> bool:
    """Whether Serve LLM runs its engine. Others are children of a deployment of our own."""
    release = tuple(int(n) for n in re.findall(r"[0-9]+", kind.one.engine_version)[:2])
    return kind.one.engine == "vllm" and release >= OLDEST_VLLM


def serve_config(
    plan: Plan, kinds: Sequence[Kind], places: Places, present: Mapping[str, int] | None = None
) -> Json:
    """What `serve deploy` takes. `present`: of each kind, how many instances may run now, where not all may.

    How many there are is in `deployments` alone, and there for every kind: Serve starts every engine anew where the
    arguments change, or where a kind comes to be named there (its code version hashes their policies).
    """
    counts = {k.name: len(k.instances) if present is None else present.get(k.name, 0) for k in kinds}
    several = len({n for kind in kinds for i in kind.instances for n in i.nodes}) > 1
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": HTTP_PORT},  # noqa: S104 - of the cluster's own network
        "applications": [
            {
                "name": plan.cluster,
                "route_prefix": "/",
                "import_path": "serve_front:app",
                "runtime_env": {"env_vars": _python_path(places)},
                "args": {
                    "kinds": {kind.name: _kind(plan, kind, places) for kind in kinds},
                    "rag": _rag(plan, kinds),
                    "ingress": {
                        "num_replicas": 2 if several else 1,
                        "graceful_shutdown_timeout_s": GRACE_S,
                        "ray_actor_options": {"num_cpus": 0, "resources": {FRONT_RESOURCE: SHARE}},
                    },
                },
                "deployments": [{"name": k.name, "autoscaling_config": _scaling(k.one, counts[k.name])} for k in kinds],
            }
        ],
    }


def _python_path(places: Places) -> dict[str, str]:
    return {"PYTHONPATH": places.python} if places.python else {}


def class_resource(kind: Kind) -> str:
    return f"{CLASS_RESOURCE}{kind.node_class}"


def node_resources(kind: Kind) -> dict[str, int]:
    """What Ray is told that a node with such instances has. The ingress goes with them, not to a head that only
    coordinates: it must outlive that."""
    return {class_resource(kind): 1, FRONT_RESOURCE: 1}


def _kind(plan: Plan, kind: Kind, places: Places) -> Json:
    names = served_names(plan, kind.one)
    if in_serve_llm(kind):
        return {"names": [*names], "llm_config": _llm_config(kind, names, places)}
    return {"names": [*names], "engine": _engine(kind, names, places), "options": _options(kind)}


def _llm_config(kind: Kind, names: Sequence[str], places: Places) -> Json:
    one = kind.one
    env = _process(kind, names, places).env
    return {
        "model_loading_config": {"model_id": one.service, "model_source": _weights(kind, places)},
        "engine_kwargs": engine_arguments(one, kind.node),
        "placement_group_config": {
            "bundles": [_bundle(kind) for _ in range(one.tp * one.pp)],
            "strategy": "PACK" if one.spans_nodes else "STRICT_PACK",
        },
        "deployment_config": {"name": kind.name, **_load(kind), "ray_actor_options": {"num_cpus": 0}},
        "runtime_env": {
            "env_vars": {
                **_python_path(places),
                **{k: env[k] for k in OF_VLLM if k in env},
                **OWN_LOGGING,
                **kind.node.runtime.env,
            }
        },
    }


def _bundle(kind: Kind) -> Json:
    """Of one rank."""
    gpu = {"GPU": 1} if kind.one.accelerator == "gpu" else {}
    return {"CPU": 1, **gpu, class_resource(kind): SHARE}


def _load(kind: Kind) -> Json:
    """The plan's concurrency is what a replica is to hold."""
    one = kind.one
    return {
        "autoscaling_config": _scaling(one, 1),
        "max_ongoing_requests": one.max_concurrency,
        "max_queued_requests": one.max_concurrency,
        "health_check_period_s": 2,
        "health_check_timeout_s": 20,  # three of them outlast what a replica waits for a vanished node, see SILENT_PEER
        "max_constructor_retry_count": STARTS,
        "graceful_shutdown_timeout_s": GRACE_S,
        "graceful_shutdown_wait_loop_s": 2,
        **({"request_router_config": {"request_router_class": BY_SESSION}} if one.task == "generate" else {}),
    }


def _scaling(one: Instance, count: int) -> Json:
    """As many replicas as there are instances at most. Serve cannot be told none, but that it need not keep one."""
    return {
        "min_replicas": min(1, count),
        "initial_replicas": count,
        "max_replicas": max(1, count),
        "target_ongoing_requests": one.max_concurrency,
        "upscale_delay_s": 10,
        "downscale_delay_s": 600 if count else 0,
    }


def _options(kind: Kind) -> Json:
    ranks = kind.one.tp * kind.one.pp
    gpus = ranks if kind.one.accelerator == "gpu" else 0
    where = {"num_cpus": ranks, "num_gpus": gpus, "resources": {class_resource(kind): SHARE}}
    return {**_load(kind), "ray_actor_options": where}


def _engine(kind: Kind, names: Sequence[str], places: Places) -> Json:
    """The planned command as a process of the replica's own. Ray says which GPUs it sees."""
    made = _process(kind, names, places)
    argv = [*made.argv]
    argv[argv.index("--port") + 1] = "{port}"
    gone = {*VISIBLE.values(), "CUDA_DEVICE_ORDER", "TMPDIR"}
    return {
        "argv": argv,
        "env": {k: v for k, v in sorted(made.env.items()) if k not in gone},
        "start_within_s": made.start_within_s,
        "hang_after_s": made.hang_after_s,
        "stop_grace_s": made.stop_grace_s,
    }


def _process(kind: Kind, names: Sequence[str], places: Places) -> Process:
    """As on a node without containers: Ray itself may run in one."""
    node = kind.node.model_copy(update={"runtime": kind.node.runtime.model_copy(update={"kind": "process"})})
    placed = replace(kind.one, weights_path=_weights(kind, places))
    local = dict.fromkeys(placed.nodes, "127.0.0.1")
    folder = NodeFolder(places.root)
    return engine_process(placed, node, folder=folder, addresses=local, ray_address="127.0.0.1", names=names)


def _weights(kind: Kind, places: Places) -> str:
    return kind.one.weights_path.replace("{models}", places.models)


def _rag(plan: Plan, kinds: Sequence[Kind]) -> Json | None:
    """None where one of the three tasks has no service."""
    tasks = {task: _by_service(plan, kinds, task) for task in ("embed", "rerank", "generate")}
    if not all(tasks.values()):
        return None
    return {**tasks, "candidates": CANDIDATES, "passages": PASSAGES}


def _by_service(plan: Plan, kinds: Sequence[Kind], task: str) -> dict[str, Mapping[str, int]]:
    found: dict[str, Mapping[str, int]] = {}
    for service in plan.services:
        mine = {k.name: k.one.weight for k in kinds if k.one.service == service.name}
        if service.task == task and mine:
            found[service.name] = mine
    return found
