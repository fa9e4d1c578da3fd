"""Gates: hops inside the router that bound how many requests run behind them.

What exceeds the limit of one of Envoy's clusters is refused for good. Behind a gate that refusal is an answer (503) of
an endpoint like any other, and the retries in front of it take the request elsewhere. A gate is an internal listener:
no socket, no other thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmfleet.launch.router.clusters import (
    AT,
    CAPS,
    address_of,
    circuit_breakers,
    dead_connections,
    http_options,
    socket_address,
)
from llmfleet.launch.router.pools import Member, RoutedPool
from llmfleet.launch.router.tables import route_table
from llmfleet.launch.router.xds import Json, extension, typed

LOW = "low"  # the gate before the places that requests of low priority may hold, see low.py


def capped_clusters(pools: Iterable[RoutedPool], hosts: Mapping[str, str]) -> list[Json]:
    """What is behind the gate: a cluster for each instance, since a limit is a cluster's. Pools may share instances."""
    members = {m.instance.id: m for pool in pools for m in pool.capped}
    return [_capped(member, hosts) for member in members.values()]


def _capped(member: Member, hosts: Mapping[str, str]) -> Json:
    instance, name = member.instance, f"at.{member.instance.id}"
    address = socket_address(address_of(instance.nodes[0], hosts), instance.port)
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        type="STATIC",
        connect_timeout="0.5s",
        load_assignment={
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        circuit_breakers=circuit_breakers(member.cap or 0),
        **dead_connections(),
        typed_extension_protocol_options=http_options(),
    )


def caps_gate() -> Json:
    """One route for all instances, the header says which: the listener stays as it is while instances come and go."""
    by_header = {"match": {"prefix": "/"}, "route": {"cluster_header": AT, "timeout": "0s"}}
    return gate(CAPS, route_config=route_table(CAPS, [{**by_header, "request_headers_to_remove": [AT]}]))


def gate_cluster(name: str) -> Json:
    """The way to a gate for those who choose a cluster, not an endpoint."""
    address = {"envoy_internal_address": {"server_listener_name": name}}
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        type="STATIC",
        load_assignment={
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        circuit_breakers=circuit_breakers(),
        typed_extension_protocol_options=http_options(),
    )


def gate(name: str, **routes: Json) -> Json:
    """The listener of a gate. What there is to know of a request was found out before it.

    `routes`: the table itself as `route_config`, or where it comes from as `rds`.
    """
    return typed(
        "envoy.config.listener.v3.Listener",
        name=name,
        internal_listener={},
        filter_chains=[
            {
                "filters": [
                    extension(
                        "envoy.filters.network.http_connection_manager",
                        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        stat_prefix=f"gate.{name}",
                        http_filters=[router_filter()],
                        generate_request_id=False,
                        stream_idle_timeout="0s",
                        server_header_transformation="PASS_THROUGH",
                        **routes,
                    )
                ]
            }
        ],
    )


def router_filter() -> Json:
    return extension(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        suppress_envoy_headers=True,
        dynamic_stats=False,  # by status and cluster: nobody asks, each request would pay
    )
