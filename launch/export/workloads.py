"""A kind of instance as Kubernetes resources: its workload, the names its members go by, what may be evicted."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.export.pods import PORT, Json, Weights, pod_spec

MASTER_PORT = 29501
ENGINE = "engine"


def labels(cluster: str, component: str, name: str) -> Json:
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": cluster,
        "app.kubernetes.io/managed-by": "llmfleet",
    }


def selector(cluster: str, component: str, name: str) -> Json:
    mine = labels(cluster, component, name)
    return {key: mine[f"app.kubernetes.io/{key.rpartition('/')[2]}"] for key in list(mine)[:3]}


def workload_resources(kind: Kind, cluster: str, names: Sequence[str], weights: Weights) -> list[Json]:
    """Members have names of their own, in the order of the plan's instances: the router weighs each by itself."""
    mine, chosen = labels(cluster, ENGINE, kind.name), selector(cluster, ENGINE, kind.name)
    pod = {**pod_spec(kind, names, weights), "topologySpreadConstraints": [spread(chosen)]}
    template = {"metadata": {"labels": mine | {"llmfleet.io/service": kind.one.service}}, "spec": pod}
    workload = _group(kind, template) if kind.one.spans_nodes else _set(kind, template, chosen)
    meta = {"name": kind.name, "labels": mine, "annotations": _about(kind)}
    return [
        {**workload, "metadata": meta, "spec": workload["spec"]},
        _names(kind, mine, chosen),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": kind.name, "labels": mine},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": chosen}},
        },
    ]


def _about(kind: Kind) -> Json:
    return {
        "llmfleet.io/instances": ",".join(i.id for i in kind.instances),
        "llmfleet.io/reason": kind.one.reason,
        "llmfleet.io/class": kind.node_class,
    }


def spread(chosen: Json) -> Json:
    """As the plan does: members on different nodes first."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": chosen},
    }


def _set(kind: Kind, template: Json, chosen: Json) -> Json:
    """A StatefulSet for its names alone: a Deployment's pods have none that a router could weigh one by one."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {},
        "spec": {
            "serviceName": kind.name,
            "replicas": len(kind.instances),
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": chosen},
            "template": template,
        },
    }


def _names(kind: Kind, mine: Json, chosen: Json) -> Json:
    """Of the members' pods. A group's controller makes such a service itself: ours is for who reads metrics."""
    group = kind.one.spans_nodes
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{kind.name}-metrics" if group else kind.name, "labels": mine},
        "spec": {
            "clusterIP": "None",
            "selector": chosen | ({"leaderworkerset.sigs.k8s.io/worker-index": "0"} if group else {}),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def _group(kind: Kind, template: Json) -> Json:
    """Pods of one instance over several nodes, without Ray: vLLM's own way of joining nodes."""
    leader, worker = deepcopy(template), deepcopy(template)
    size = len(kind.one.nodes)
    for pod, rank, extra in ((leader, "0", []), (worker, "$(LWS_WORKER_INDEX)", ["--headless"])):
        engine = pod["spec"]["containers"][0]
        engine["args"] = _joined(engine["args"], size, rank) + extra
        pod["spec"].pop("topologySpreadConstraints")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        worker["spec"]["containers"][0].pop(probe)  # a follower answers nobody
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {},
        "spec": {
            "replicas": len(kind.instances),
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": {
                "size": size,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        },
    }


def _joined(args: list[str], size: int, rank: str) -> list[str]:
    kept = [*args]
    if "--distributed-executor-backend" in kept:
        at = kept.index("--distributed-executor-backend")
        kept[at : at + 2] = []
    return [
        *kept,
        *("--nnodes", str(size), "--node-rank", rank),
        *("--master-addr", "$(LWS_LEADER_ADDRESS)", "--master-port", str(MASTER_PORT)),
    ]
