"""The router before Ray Serve: the configuration of every other router, with a hop to Serve for each kind of instance.

To the router a kind is one instance with the weights and the concurrency of all of them. Its address is a listener of
the router's own on loopback, which puts the kind into the path and the prompt's key where Serve looks for a session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.export.serve_app import HTTP_PORT
from llmfleet.launch.router.clusters import circuit_breakers, dead_connections, is_ip, socket_address
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.gates import router_filter
from llmfleet.launch.router.options import DEFAULTS, Options
from llmfleet.launch.router.routes import PREFIX, other_host
from llmfleet.launch.router.tables import by_header, in_order
from llmfleet.launch.router.xds import Json, discovery, extension, from_yaml, set_header, typed
from llmfleet.planner.plan import Instance, Plan, Pool

FIRST_HOP: Final = 18200
LOOPBACK: Final = "127.0.0.1"
SERVE: Final = "ray-serve"
HEAVIEST: Final = 1000
SESSION: Final = "x-session-id"
RAG: Final = "/v1/rag"

# A kind is all of its instances, and its health is told by a proxy and an ingress in Python: late when they are busy,
# and not by those of a vanished node, until Ray has noticed after 16 s (SILENT_NODE). A kind without a replica refuses
# at once, and others are asked.
PATIENT: Final = replace(DEFAULTS, health_timeout_s=4.0, health_failures=5)


def serve_router_files(
    plan: Plan, kinds: Sequence[Kind], serve: Sequence[str], folder: str, *, rag: bool,
    hosts: Mapping[str, str] = {}, **options: Any,
) -> Mapping[str, str]:
    """Text by path below `folder`. `serve`: hosts whose HTTP proxies of Serve answer at HTTP_PORT. `hosts` and
    `options`: what else router_files takes, with kinds as instances."""
    hosts = {**hosts, **loopback(kinds)}
    patient = of_several(PATIENT, kinds)
    files = router_files(by_kind(plan, kinds), hosts=hosts, folder=folder, options=patient, **options)
    return with_hops(files, kinds, serve, rag=rag)


def of_several(options: Options, kinds: Sequence[Kind]) -> Options:
    """Streams that a node cut off when it died are no reason to leave out the kind."""
    return replace(options, several=frozenset(kind.name for kind in kinds))


def loopback(kinds: Sequence[Kind]) -> Mapping[str, str]:
    return {kind.name: LOOPBACK for kind in kinds}


def with_hops(files: Mapping[str, str], kinds: Sequence[Kind], serve: Sequence[str], *, rag: bool) -> Mapping[str, str]:
    files = dict(files)
    listeners = [_hop(kind.name, FIRST_HOP + n) for n, kind in enumerate(kinds)]
    files["xds/lds.yaml"] = _with(files["xds/lds.yaml"], listeners)
    files["xds/cds.yaml"] = _with(files["xds/cds.yaml"], [_serve_cluster(serve)])
    if rag:
        files["xds/rds.yaml"] = _with_chain(files["xds/rds.yaml"])
    return files


def by_kind(plan: Plan, kinds: Sequence[Kind]) -> Plan:
    """The plan with one instance for all of a kind. Instances of no kind stay as they are."""
    of = {i.id: kind.name for kind in kinds for i in kind.instances}
    heaviest = max(sum(i.weight for i in kind.instances) for kind in kinds)
    merged = tuple(_merged(kind, FIRST_HOP + n, heaviest) for n, kind in enumerate(kinds))
    others = tuple(i for i in plan.instances if i.id not in of)
    services = tuple(replace(s, pools=tuple(_pool(p, of) for p in s.pools)) for s in plan.services)
    return replace(plan, instances=(*merged, *others), services=services)


def _merged(kind: Kind, port: int, heaviest: int) -> Instance:
    total = sum(i.weight for i in kind.instances)
    return replace(
        kind.one,
        id=kind.name,
        nodes=(kind.name,),
        gpus={kind.name: kind.one.gpus[kind.one.nodes[0]]},
        port=port,
        weight=max(1, round(HEAVIEST * total / heaviest)) if heaviest > HEAVIEST else total,
        max_concurrency=sum(i.max_concurrency for i in kind.instances),
    )


def _pool(pool: Pool, of: Mapping[str, str]) -> Pool:
    return replace(pool, instances=tuple(dict.fromkeys(of.get(i, i) for i in pool.instances)))


def _with(text: str, more: Sequence[Json]) -> str:
    return discovery([*from_yaml(text)["resources"], *more])


def _with_chain(text: str) -> str:
    """The chain before all other routes: it is no task of a single service."""
    (table,) = from_yaml(text)["resources"]
    (host,) = table["virtual_hosts"]
    chain = {"name": "rag", "match": {"path": RAG}, "route": {"cluster": SERVE, "timeout": "0s"}}
    lookup = by_header(":path", {RAG: in_order([chain])}, otherwise={"matcher": host["matcher"]})
    return discovery([{**table, "virtual_hosts": [{**host, **lookup}]}])


def _hop(kind: str, port: int) -> Json:
    session = {**set_header(SESSION, f"%REQ({PREFIX})%"), "keep_empty_value": False}
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": SERVE, "prefix_rewrite": f"/{kind}/", "timeout": "0s", "retry_policy": _other_proxy()},
        "request_headers_to_add": [session],
    }
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="hop",
        route_config={"name": kind, "virtual_hosts": [{"name": kind, "domains": ["*"], "routes": [route]}]},
        http_filters=[router_filter()],
        stream_idle_timeout="0s",
    )
    return typed(
        "envoy.config.listener.v3.Listener",
        name=f"hop.{kind}",
        address=socket_address(LOOPBACK, port),
        filter_chains=[{"filters": [manager]}],
    )


def _other_proxy() -> Json:
    """What a proxy of Serve never got, or vanished with before it answered, may be asked of another. All else is for
    the router's own retries, which go to another kind."""
    return {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 3, **other_host()}


def _serve_cluster(serve: Sequence[str]) -> Json:
    members = [{"endpoint": {"address": socket_address(host, HTTP_PORT)}} for host in serve]
    check = {
        "timeout": "1s",
        "interval": "1s",
        "no_traffic_interval": "1s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/-/healthz"},
    }
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=SERVE,
        type="STATIC" if all(map(is_ip, serve)) else "STRICT_DNS",
        connect_timeout="0.5s",
        lb_policy="LEAST_REQUEST",
        common_lb_config={"healthy_panic_threshold": {"value": 1}},  # where none is well, all are asked
        load_assignment={"cluster_name": SERVE, "endpoints": [{"lb_endpoints": members}]},
        health_checks=[check],
        circuit_breakers=circuit_breakers(),
        **dead_connections(),
    )
