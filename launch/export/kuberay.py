"""KubeRay instead of plain pods: a RayService with the plan's application, one group of workers for each class of node.

A worker is a whole node: Ray deals its GPUs out to replicas. Engines that Serve LLM cannot run stay pods of their own,
as images of theirs with Ray do not exist. Fields are those of KubeRay 1.7.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from llmfleet.launch.commands.devices import vendor
from llmfleet.launch.commands.ray import SILENT_NODE, SILENT_PEER
from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.export.pods import (
    FOLDER,
    GRACE_S,
    RESOURCE,
    SHM,
    Json,
    Weights,
    mounted,
    weights_of,
    where,
)
from llmfleet.launch.export.serve_app import (
    HTTP_PORT,
    RAY_VERSION,
    exported_places,
    in_serve_llm,
    node_resources,
    serve_config,
)
from llmfleet.launch.export.workloads import labels, selector, spread
from llmfleet.launch.router.xds import to_yaml
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

KUBERAY: Final = "1.7.0"
WORKERS: Final = "ray"
DOCKERFILE: Final = """\
# vLLM of one release with the Ray that runs it: docker build --build-arg VLLM=%s -t IMAGE .
ARG VLLM
FROM vllm/vllm-openai:v${VLLM}
RUN pip install --no-cache-dir "ray[serve]==%s" jsonref pyarrow
ENTRYPOINT []
"""


def ray_kinds(kinds: Sequence[Kind]) -> tuple[Kind, ...]:
    """Those that go into Ray: on GPUs, with an engine that Serve LLM runs. Raises InputError where there are none."""
    found = tuple(kind for kind in kinds if in_serve_llm(kind) and kind.one.accelerator == "gpu")
    if not found:
        engines = ", ".join(sorted({f"{k.one.engine} {k.one.engine_version}" for k in kinds}))
        raise InputError(
            f"nothing of the plan runs in Ray {RAY_VERSION} on Kubernetes: its engines are {engines}",
            hint="Leave out --ray-image: pods run every engine.",
        )
    return found


def dockerfile(kinds: Sequence[Kind]) -> str:
    """For an image with Ray and the vLLM that most of the plan wants: no project publishes one."""
    releases = [i.engine_version for kind in kinds for i in kind.instances]
    return DOCKERFILE % (max(releases, key=releases.count), RAY_VERSION)


def service_name(plan: Plan) -> str:
    return plan.cluster


def serve_host(plan: Plan) -> str:
    """Of Serve's HTTP proxies, within the namespace: KubeRay makes the service and takes dead workers out of it."""
    return f"{service_name(plan)}-serve-svc"


def ray_resources(inventory: Inventory, plan: Plan, kinds: Sequence[Kind], weights: Weights, image: str) -> list[Json]:
    """`kinds`: of ray_kinds. `image`: where a class of node names none of its own."""
    classes = {name: [k for k in kinds if k.node_class == name] for name in dict.fromkeys(k.node_class for k in kinds)}
    config = serve_config(plan, kinds, exported_places(FOLDER.root, inventory.models_dir))
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": service_name(plan),
            "labels": labels(plan.cluster, WORKERS, service_name(plan)),
            "annotations": {"llmfleet.io/instances": ",".join(i.id for kind in kinds for i in kind.instances)},
        },
        "spec": {
            "serveConfigV2": to_yaml({key: config[key] for key in ("http_options", "applications")}),
            "upgradeStrategy": {"type": "None"},  # another cluster beside this one would find no free GPUs
            "excludeHeadPodFromServeSvc": True,
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "headGroupSpec": _head(plan, image),
                "workerGroupSpecs": [_group(plan, mine, weights, image) for mine in classes.values()],
            },
        },
    }
    return [service, *(_budget(plan, name) for name in classes), _policy(plan)]


def _head(plan: Plan, image: str) -> Json:
    """Coordinates only. Serve's controller builds the application there, so that it needs the workers' image."""
    container = {
        "name": "ray-head",
        "image": image,
        "env": [{"name": k, "value": v} for k, v in SILENT_NODE.items()],
        "ports": [
            {"name": "gcs", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "client", "containerPort": 10001},
        ],
        "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
        "volumeMounts": [mounted("scripts", FOLDER.bin, read_only=True)],
    }
    return {
        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - the pod's own
        "template": {
            "metadata": {"labels": labels(plan.cluster, WORKERS, "ray-head")},
            "spec": {"enableServiceLinks": False, "containers": [container], "volumes": [_scripts()]},
        },
    }


def _group(plan: Plan, kinds: Sequence[Kind], weights: Weights, image: str) -> Json:
    one = kinds[0]
    nodes = {n for kind in kinds for i in kind.instances for n in i.nodes}
    gpus = parse_gpus(one.node.gpus or "").count
    name = group_name(one.node_class)
    mine, chosen = labels(plan.cluster, WORKERS, name), selector(plan.cluster, WORKERS, name)
    volumes, mounts, copying = _all_weights(kinds, weights)
    container = {
        "name": "ray-worker",
        "image": one.node.runtime.image or image,
        "env": [{"name": k, "value": v} for k, v in sorted({**SILENT_PEER, **one.node.runtime.env}.items())]
        + [{"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "resources": {
            "requests": {"cpu": str(2 * gpus), "memory": f"{8 * gpus}Gi"},
            "limits": {RESOURCE[vendor(one.node)]: str(gpus)},
        },
        "lifecycle": {"preStop": {"exec": {"command": ["ray", "stop"]}}},
        "volumeMounts": [*mounts, mounted("shm", SHM), mounted("scripts", FOLDER.bin, read_only=True)],
    }
    spec = {
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **where(one.node, one.node_class),
        **({"initContainers": copying} if copying else {}),
        "containers": [container],
        "volumes": [*volumes, _shm(gpus), _scripts()],
        "topologySpreadConstraints": [spread(chosen)],
    }
    count = len(nodes)
    return {
        "groupName": name,
        "replicas": count,
        "minReplicas": count,
        "maxReplicas": count,
        # KubeRay puts it on a shell's command line: the quotes are its own
        "rayStartParams": {"resources": json.dumps(json.dumps(node_resources(one)))},
        "template": {"metadata": {"labels": mine}, "spec": spec},
    }


def group_name(node_class: str) -> str:
    return f"class-{node_class}"


def _all_weights(kinds: Sequence[Kind], weights: Weights) -> tuple[list[Json], list[Json], list[Json]]:
    """Of every model that the class serves: volumes, mounts, and containers that copy first."""
    volumes: dict[str, Json] = {}
    mounts: list[Json] = []
    copying: list[Json] = []
    for number, kind in enumerate({k.one.weights_path: k for k in kinds}.values()):
        placed = replace(
            kind.one, weights_path=kind.one.weights_path.replace("{models}", weights.models_dir.rstrip("/"))
        )
        some, theirs, copy = weights_of(placed, weights)
        shared = weights.claim is not None  # one folder of the node, and one claim, hold them all
        new = "weights" if shared else f"weights-{number}"
        volumes |= {v["name"] if shared else new: {**v, "name": v["name"] if shared else new} for v in some}
        mounts += [{**m, "name": new} for m in theirs]
        copying += [{**copy, "name": f"weights-{number}"}] if copy else []
    return [*volumes.values()], mounts, copying


def _shm(gpus: int) -> Json:
    return {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{2 * gpus}Gi"}}


def _scripts() -> Json:
    return {"name": "scripts", "configMap": {"name": "engine-scripts"}}


def _budget(plan: Plan, node_class: str) -> Json:
    name = group_name(node_class)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"ray-{name}", "labels": labels(plan.cluster, WORKERS, name)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(plan.cluster, WORKERS, name)}},
    }


def _policy(plan: Plan) -> Json:
    """Ray runs what it is told by whoever reaches it: that is its own pods, the router, and KubeRay's operator."""
    chosen: Mapping[str, str] = {
        "app.kubernetes.io/part-of": plan.cluster,
        "app.kubernetes.io/component": WORKERS,
    }
    ours = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": plan.cluster}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": WORKERS, "labels": labels(plan.cluster, "fleet", "fleet")},
        "spec": {
            "podSelector": {"matchLabels": dict(chosen)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [ours]}, {"from": [operator]}],
        },
    }
