"""llm-d and others that implement the Gateway API's inference extension: an InferencePool a service, and its route."""

from __future__ import annotations

import yaml

from llmfleet.launch.router.exports.export import BOUND, HEADERS, KEYS, PRIORITY, WEIGHTS, Export, Fleet
from llmfleet.launch.router.pools import RoutedPool
from llmfleet.launch.router.xds import Json
from llmfleet.planner.plan import ServicePlan

POOL_API, ROUTE_API = "inference.networking.k8s.io/v1", "gateway.networking.k8s.io/v1"
SERVICE_LABEL, MODEL_HEADER, PICKER_PORT = "llmfleet/service", "X-Gateway-Model-Name", 9002
PODS = f"instances as such: pods that carry the label {SERVICE_LABEL} and listen on these ports are yours to make"
PICKER = "the choice of an instance: the endpoint picker's, by cache and queue"


def export(fleet: Fleet) -> Export:
    documents = [d for s, pool in fleet.services for d in (_pool(s, pool), _route(fleet, s))]
    text = yaml.safe_dump_all(documents, sort_keys=False)
    dropped = (PODS, PICKER, WEIGHTS, BOUND, PRIORITY, KEYS, HEADERS)
    return Export(f"# {fleet.plan.cluster}: kubectl apply -f THIS_FILE\n{text}", fleet.missing(*dropped))


def _pool(service: ServicePlan, pool: RoutedPool) -> Json:
    ports = sorted({member.instance.port for member in pool.members})
    return {
        "apiVersion": POOL_API,
        "kind": "InferencePool",
        "metadata": {"name": service.name},
        "spec": {
            "selector": {"matchLabels": {SERVICE_LABEL: service.name}},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": f"{service.name}-epp", "port": {"number": PICKER_PORT}},
        },
    }


def _route(fleet: Fleet, service: ServicePlan) -> Json:
    """By the header that the gateway's body-based routing sets to the body's model."""
    by_model = [
        {"headers": [{"type": "Exact", "name": MODEL_HEADER, "value": name}]} for name in fleet.names(service)
    ]
    backend = {"group": POOL_API.partition("/")[0], "kind": "InferencePool", "name": service.name}
    return {
        "apiVersion": ROUTE_API,
        "kind": "HTTPRoute",
        "metadata": {"name": service.name},
        "spec": {
            "parentRefs": [{"group": ROUTE_API.partition("/")[0], "kind": "Gateway", "name": "inference-gateway"}],
            "rules": [{"matches": by_model, "backendRefs": [backend], "timeouts": {"request": "0s"}}],
        },
    }
