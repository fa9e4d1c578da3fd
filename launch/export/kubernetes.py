"""`llmfleet export kubernetes`: plain manifests with a kustomization. Equal plans give equal files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmfleet.launch.export.front import ROUTER, InRay, front_resources, keys_secret
from llmfleet.launch.export.kinds import Export, Kind, check_names, kinds_of, node_class_names
from llmfleet.launch.export.kuberay import KUBERAY, dockerfile, ray_kinds, ray_resources, serve_host
from llmfleet.launch.export.pods import CLASS, Json, Weights, gpu_products
from llmfleet.launch.export.ray_serve import SCRIPTS, script
from llmfleet.launch.export.workloads import ENGINE, labels, workload_resources
from llmfleet.launch.router.clients import ClientKey
from llmfleet.launch.router.names import served_names
from llmfleet.launch.router.xds import to_yaml
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

HOLD_HEADERS = "hold_headers.py"


def kubernetes(
    inventory: Inventory,
    plan: Plan,
    *,
    namespace: str | None = None,
    claim: str | None = None,
    ray_image: str | None = None,
) -> Export:
    """`claim`: a PersistentVolumeClaim with the weights; None: they lie on the nodes at the plan's paths.
    `ray_image`: vLLM with Ray, for what goes into Ray under KubeRay; None: nothing does.

    Raises InputError for names, images and shapes that Kubernetes cannot take.
    """
    kinds = kinds_of(inventory, plan)
    weights = Weights(claim, inventory.models_dir)
    keys = inventory.router.keys_file is not None
    home = namespace or plan.cluster
    check_names([home])
    in_ray = ray_kinds(kinds) if ray_image else ()
    pods = tuple(kind for kind in kinds if kind not in in_ray)
    ray = InRay(in_ray, serve_host(plan)) if in_ray else None
    files = {f"{kind.name}.yaml": _documents(_workload(kind, plan, weights)) for kind in pods}
    if ray_image:
        files["ray.yaml"] = _documents(ray_resources(inventory, plan, in_ray, weights, ray_image))
    files["router.yaml"] = _documents(front_resources(plan, pods, plan.cluster, keys=keys, ray=ray))
    files["policy.yaml"] = _documents([*_policies(plan), _monitor(plan)])
    files["scripts.yaml"] = _documents([_scripts(plan, HOLD_HEADERS, *(SCRIPTS if ray_image else ()))])
    files["namespace.yaml"] = _documents([_namespace(home, plan)])
    files["kustomization.yaml"] = to_yaml(_kustomization(home, sorted(files)))
    if ray_image:
        files["Dockerfile"] = dockerfile(in_ray)
    lost = (*_lost(plan, kinds, weights), *(_lost_in_ray(pods) if ray_image else ()))
    before = (*_before(inventory, kinds), *(_before_ray(in_ray, ray_image) if ray_image else ()))
    return Export(dict(sorted(files.items())), tuple(lost), tuple(before))


def secret(inventory: Inventory, plan: Plan, keys: Sequence[ClientKey], *, namespace: str | None = None) -> str:
    """Clients' keys as the exported router wants them, as a manifest."""
    made = keys_secret(plan, kinds_of(inventory, plan), plan.cluster, keys)
    made["metadata"] = {**made["metadata"], "namespace": namespace or plan.cluster}
    return to_yaml(made)


def _workload(kind: Kind, plan: Plan, weights: Weights) -> list[Json]:
    return workload_resources(kind, plan.cluster, served_names(plan, kind.one), weights)


def _documents(parts: Sequence[Json]) -> str:
    return "---\n".join(to_yaml(part) for part in parts)


def _namespace(name: str, plan: Plan) -> Json:
    meta = {"name": name, "labels": labels(plan.cluster, "fleet", name)}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def _kustomization(namespace: str, files: list[str]) -> Json:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": files,
    }


def _scripts(plan: Plan, *names: str) -> Json:
    texts = {name: script(name) for name in names}
    meta = {"name": "engine-scripts", "labels": labels(plan.cluster, ENGINE, ENGINE)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": texts}


def _policies(plan: Plan) -> Iterator[Json]:
    """Engines are for the router, for each other, and for whoever reads metrics; clients reach the router alone."""
    part = "app.kubernetes.io/part-of"
    component = "app.kubernetes.io/component"
    ours = {"podSelector": {"matchLabels": {part: plan.cluster}}}
    metrics = {"namespaceSelector": {"matchLabels": {"llmfleet.io/reads-metrics": "true"}}}
    meta = labels(plan.cluster, "fleet", "fleet")
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "engines", "labels": meta},
        "spec": {
            "podSelector": {"matchLabels": {part: plan.cluster, component: ENGINE}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [ours]}, {"from": [metrics], "ports": [{"port": "http", "protocol": "TCP"}]}],
        },
    }
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": ROUTER, "labels": meta},
        "spec": {
            "podSelector": {"matchLabels": {part: plan.cluster, component: ROUTER}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": "http", "protocol": "TCP"}]}],
        },
    }


def _monitor(plan: Plan) -> Json:
    """For the Prometheus operator."""
    chosen = {"app.kubernetes.io/part-of": plan.cluster, "app.kubernetes.io/component": ENGINE}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "engines", "labels": labels(plan.cluster, ENGINE, "engines")},
        "spec": {
            "selector": {"matchLabels": chosen},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        },
    }


def _lost(plan: Plan, kinds: Sequence[Kind], weights: Weights) -> Iterator[str]:
    yield "which GPUs of a node an instance gets is the kubelet's choice: indices, NVLink islands are not the plan's"
    yield "which node of its class an instance lands on is the scheduler's choice: members of a kind are spread"
    yield "pods of a node that dies wait 5 minutes for a place elsewhere; the router leaves them within seconds"
    yield "llmfleet status, drain and bench do not look into Kubernetes: kubectl, kubectl drain and the metrics do"
    yield "the router's own figures stay on its pod's loopback and are not scraped"
    if any(kind.one.engine == "llama.cpp" for kind in kinds):
        yield "llama.cpp cuts running answers when its pod ends; vLLM finishes them"
    if any(i.weights_source for i in plan.instances) and weights.claim is None:
        yield "weights are not copied from your machine: they lie on the nodes already, or in a claim (--weights-claim)"
    if any(kind.one.accelerator == "cpu" for kind in kinds):
        yield "a CPU slot is a request of one core and its memory, not a part of a known machine"


def _lost_in_ray(pods: Sequence[Kind]) -> Iterator[str]:
    yield "in Ray, weights and limits hold for a kind of instance; among its replicas Ray Serve chooses"
    yield "in Ray, requests pass a Python proxy and a Python ingress, and a dead node is noticed when Ray notices it"
    yield "the head's state is in its memory: without gcsFaultToleranceOptions a head that dies takes its workers along"
    if pods:
        yield f"outside Ray, in pods of their own as without --ray: {', '.join(kind.name for kind in pods)}"


def _before_ray(in_ray: Sequence[Kind], image: str) -> Iterator[str]:
    if any(kind.node.runtime.image is None for kind in in_ray):
        yield f"docker build -t {image} -f Dockerfile . && docker push {image}"
    yield f"helm install kuberay-operator kuberay/kuberay-operator --version {KUBERAY}"


def _before(inventory: Inventory, kinds: Sequence[Kind]) -> Iterator[str]:
    classes = node_class_names(inventory)
    for name in dict.fromkeys(kind.node_class for kind in kinds):
        members = [n for n in inventory.nodes if classes[n.name] == name]
        if not gpu_products(members[0]):
            yield f"kubectl label node {' '.join(n.name for n in members)} {CLASS}={name}"
    if inventory.router.keys_file is not None:
        yield "llmfleet export kubernetes --print-secret | kubectl apply -f -   # clients' keys; same --namespace"
