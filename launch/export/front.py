"""The router in Kubernetes: Envoy with the configuration that every other router gets, and what keeps its addresses."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Final

from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.export.pods import GRACE_S, PORT, Json
from llmfleet.launch.export.serve_front import by_kind, loopback, of_several, with_hops
from llmfleet.launch.export.workloads import labels, selector
from llmfleet.launch.router.clients import AUTH_FILE, LIMITS, ClientKey
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.options import DEFAULTS
from llmfleet.launch.router.process import envoy_command
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Plan

ROUTER = "router"
IMAGE: Final = "envoyproxy/envoy:v1.40.0"
FOLLOW_IMAGE: Final = "python:3.12-slim"
FOLDER, TEMPLATES, SCRIPTS = "/router", "/templates", "/scripts"
FOLLOW: Final = "follow_addresses.py"
PORT_OF_POD, ADMIN_PORT = 8080, 9901  # of a process that may not open ports below 1024
NOWHERE: Final = ipaddress.ip_network("198.18.0.0/15")  # RFC 2544: for tests of devices, routed nowhere
KEYS_SECRET: Final = "router-keys"  # noqa: S105 - its name
SECRET_FILES: Final = (AUTH_FILE, f"xds/ecds/{LIMITS}.yaml")
MOST_BYTES: Final = 1_000_000  # of a ConfigMap: 1 MiB with everything


def stand_ins(kinds: Sequence[Kind]) -> Mapping[str, str]:
    """By instance, the address that stands for it in the files until its pod has one."""
    ids = [i.id for kind in kinds for i in kind.instances]
    return {each: str(NOWHERE[n + 1]) for n, each in enumerate(ids)}


@dataclass(frozen=True, slots=True)
class InRay:
    """Kinds that Ray Serve carries, and the host where it answers."""

    kinds: tuple[Kind, ...]
    host: str


def templates(plan: Plan, kinds: Sequence[Kind], ray: InRay | None = None) -> Mapping[str, str]:
    """The router's files by path, with stand-ins for addresses of `kinds`. Clients' keys are not among them."""
    if ray is None:
        return router_files(_in_pods(plan), hosts=stand_ins(kinds), folder=FOLDER)
    hosts = {**stand_ins(kinds), **loopback(ray.kinds)}
    options = of_several(DEFAULTS, ray.kinds)
    files = router_files(by_kind(_in_pods(plan), ray.kinds), hosts=hosts, folder=FOLDER, options=options)
    return with_hops(files, ray.kinds, [ray.host], rag=False)


def _in_pods(plan: Plan) -> Plan:
    """The plan as if each instance had a node of its own, named like it."""
    alone = tuple(replace(i, nodes=(i.id,), gpus={i.id: i.gpus[i.nodes[0]]}, port=PORT) for i in plan.instances)
    router = replace(plan.router, bind="0.0.0.0", port=PORT_OF_POD, admin_port=ADMIN_PORT)  # noqa: S104 - the pod's own
    return replace(plan, instances=alone, router=router)


def keys_secret(plan: Plan, kinds: Sequence[Kind], cluster: str, keys: Sequence[ClientKey]) -> Json:
    """For a pipe into kubectl, and for no file."""
    files = router_files(_in_pods(plan), hosts=stand_ins(kinds), folder=FOLDER, keys=keys)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": KEYS_SECRET, "labels": labels(cluster, ROUTER, ROUTER)},
        "stringData": {_key(path): files[path] for path in SECRET_FILES},
    }


def front_resources(
    plan: Plan, kinds: Sequence[Kind], cluster: str, *, keys: bool, ray: InRay | None = None
) -> list[Json]:
    """`kinds`: those in pods of their own. `keys`: whether the inventory asks clients for keys. They are in a Secret
    that the operator makes."""
    mine, chosen = labels(cluster, ROUTER, ROUTER), selector(cluster, ROUTER, ROUTER)
    places = stand_ins(kinds)
    names = {places[i.id]: kind.host(n) for kind in kinds for n, i in enumerate(kind.instances)}
    named = {"names.json": json.dumps(names, indent=1) + "\n"}
    _fits(named)  # most fleets that do not fit are refused before their routes are written, which takes seconds
    files = {path: text for path, text in templates(plan, kinds, ray).items() if not (keys and path in SECRET_FILES)}
    config = {_key(path): text for path, text in files.items()} | named
    _fits(config)
    meta = {"labels": mine}
    script = resources.files("llmfleet.launch.remote").joinpath(FOLLOW).read_text()
    return [
        _config_map("router-config", {**meta, "annotations": {"llmfleet.io/plan": plan.hash}}, config),
        _config_map("router-scripts", meta, {FOLLOW: script}),
        _deployment(files, meta, chosen, keys=keys),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": ROUTER, **meta},
            "spec": {"selector": chosen, "ports": [{"name": "http", "port": plan.router.port, "targetPort": "http"}]},
        },
    ]


def _fits(config: Mapping[str, str]) -> None:
    if (size := sum(map(len, config.values()))) > MOST_BYTES:
        raise InputError(
            f"the router's configuration has {size:,} bytes or more, a ConfigMap holds {MOST_BYTES:,}",
            hint="Export parts of the fleet, or keep the router of llmfleet up in front.",
        )


def _config_map(name: str, meta: Json, data: Mapping[str, str]) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": dict(data)}


def _key(path: str) -> str:
    return path.replace("/", ".")


def _deployment(files: Mapping[str, str], meta: Json, chosen: Json, *, keys: bool) -> Json:
    """One pod: what bounds the requests of an instance counts within one router. A new one takes over before the old
    one ends."""
    items = [{"key": _key(path), "path": path} for path in (*files, "names.json")]
    sources: list[Json] = [{"configMap": {"name": "router-config", "items": items}}]
    if keys:
        secret = [{"key": _key(path), "path": path} for path in SECRET_FILES]
        sources.append({"secret": {"name": KEYS_SECRET, "items": secret}})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": ROUTER, **meta},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": chosen},
            "template": {
                "metadata": {"labels": meta["labels"]},
                "spec": {
                    "terminationGracePeriodSeconds": GRACE_S,
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_envoy(), _follower()],
                    "volumes": [
                        {"name": "files", "emptyDir": {}},
                        {"name": "templates", "projected": {"sources": sources}},
                        {"name": "scripts", "configMap": {"name": "router-scripts"}},
                    ],
                },
            },
        },
    }  # fmt: skip


def _envoy() -> Json:
    """Waits for its files. Before it ends it answers on for as long as clients may still come."""
    command = " ".join((*envoy_command(FOLDER, "envoy"), "--disable-hot-restart"))
    alive = {"tcpSocket": {"port": "http"}}
    return {
        "name": "envoy",
        "image": IMAGE,
        "command": ["sh", "-c", f"until [ -e {FOLDER}/bootstrap.yaml ]; do sleep 0.2; done; exec {command}"],
        "ports": [{"name": "http", "containerPort": PORT_OF_POD}],
        "readinessProbe": {**alive, "periodSeconds": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": 15}}},
        "resources": {"requests": {"cpu": "2", "memory": "512Mi"}},
        "volumeMounts": [{"name": "files", "mountPath": FOLDER}],
        "securityContext": _confined(),
    }


def _follower() -> Json:
    mounts = (("files", FOLDER), ("templates", TEMPLATES), ("scripts", SCRIPTS))
    return {
        "name": "addresses",
        "image": FOLLOW_IMAGE,
        "command": ["python3", f"{SCRIPTS}/{FOLLOW}", TEMPLATES, FOLDER],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [
            {"name": name, "mountPath": path, **({} if name == "files" else {"readOnly": True})}
            for name, path in mounts
        ],
        "securityContext": _confined(),
    }


def _confined() -> Json:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
