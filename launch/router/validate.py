"""Have Envoy judge a configuration before any of it is put in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmfleet.launch.router.process import ALONE, envoy_path
from llmfleet.launch.router.tables import routes_in
from llmfleet.launch.router.xds import Json, from_yaml, to_yaml
from llmfleet.launch.transport.base import Argv
from llmfleet.planner.inventory.model import Node


def validate_command(node: Node, path: str, *, envoy: str | None = None) -> Argv:
    """Exits 0 if the merged configuration at `path` would run on that node; else the end of stderr says why not."""
    return (envoy or envoy_path(node), "--mode", "validate", "--config-path", path, "--log-level", "error", *ALONE)


def merged_static(files: Mapping[str, str]) -> str:
    """All files as one static configuration, since Envoy does not follow watched files when it validates."""
    boot: Json = from_yaml(files["bootstrap.yaml"])
    del boot["dynamic_resources"]
    boot["static_resources"] = {
        "clusters": [_static_cluster(files, c) for c in _resources(files, "cds")],
        "listeners": [_static_listener(files, x) for x in _resources(files, "lds")],
    }
    return to_yaml(boot)


def _resources(files: Mapping[str, str], name: str) -> list[Json]:
    found: list[Json] = from_yaml(files[f"xds/{name}.yaml"])["resources"]
    return [{key: value for key, value in resource.items() if key != "@type"} for resource in found]


def _static_cluster(files: Mapping[str, str], cluster: Json) -> Json:
    if cluster.pop("eds_cluster_config", None) is None:
        return cluster
    return {**cluster, "type": "STATIC", "load_assignment": _resources(files, f"eds/{cluster['name']}")[0]}


def _static_listener(files: Mapping[str, str], listener: Json) -> Json:
    for chain in listener["filter_chains"]:
        chain.pop("transport_socket", None)  # its key goes into no file but its own; read_certificate judged the two
        for filter_ in chain["filters"]:
            http: dict[str, Any] = filter_["typed_config"]
            if "rds" in http:
                path = http.pop("rds")["config_source"]["path_config_source"]["path"]
                http["route_config"] = _judged(_resources(files, path.rpartition("/xds/")[2].removesuffix(".yaml"))[0])
            http["route_config"]["validate_clusters"] = True
            http["http_filters"] = [_static_filter(files, f) for f in http["http_filters"]]
    return listener


def _judged(table: Json) -> Json:
    """With a virtual host more that nobody reaches: Envoy misses a route's clusters only where it is not looked up."""
    routes = [route for host in table["virtual_hosts"] for route in routes_in(host.get("matcher"))]
    host = {"name": "judged", "domains": ["judged.invalid"], "routes": routes}
    return {**table, "virtual_hosts": [*table["virtual_hosts"], host]}


def _static_filter(files: Mapping[str, str], filter_: Json) -> Json:
    return _resources(files, f"ecds/{filter_['name']}")[0] if "config_discovery" in filter_ else filter_
