"""Clusters and their endpoints: who may take a request, how one of them is chosen, and how it is known to be alive."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence

from llmfleet.launch.router.options import Options
from llmfleet.launch.router.pools import Member, RoutedPool
from llmfleet.launch.router.xds import Json, extension, set_header, typed, watched
from llmfleet.planner.errors import InputError

IPPROTO_TCP, TCP_USER_TIMEOUT = 6, 18  # Linux
UNLIMITED = 1_000_000
CAPS, AT = "caps", "x-llmfleet-at"  # the gate before instances that take any number of requests, see gates.py
MERGE_WINDOW = "0.01s"  # by default a change of health reaches the workers up to a second after it is seen
# Envoy by itself sends part of the traffic on to the fallback as soon as 29 % of a cluster is down. Here one is enough.
ALL_TO_THE_HEALTHY = 100_000


def endpoints(
    pool: RoutedPool, hosts: Mapping[str, str], draining: Collection[str], stands_in_for: Sequence[str]
) -> Json:
    """`stands_in_for`: services whose requests are answered here only when their own instances cannot."""
    members = [_endpoint(pool, member, hosts, draining, stands_in_for) for member in pool.members]
    return typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=pool.cluster,
        endpoints=[{"locality": {"zone": pool.service}, "lb_endpoints": members}],
        policy={"overprovisioning_factor": ALL_TO_THE_HEALTHY},
    )


def _endpoint(
    pool: RoutedPool, member: Member, hosts: Mapping[str, str], draining: Collection[str], stands_in_for: Sequence[str]
) -> Json:
    instance = member.instance
    notes: Json = {"instance": instance.id, "pool": f"{pool.service}/{member.pool}"}
    if stands_in_for:
        notes["degraded"] = dict.fromkeys(stands_in_for, "true")
    address = socket_address(address_of(instance.nodes[0], hosts), instance.port)
    return {
        "endpoint": {**_reached(instance.id, address, gated=member.cap is not None), "hostname": instance.id},
        "health_status": "DRAINING" if instance.id in draining else "UNKNOWN",
        "load_balancing_weight": member.weight,
        # its place on the ring is its name's: whoever routes, and however it is reached
        "metadata": {"filter_metadata": {"llmfleet": notes, "envoy.lb": {"hash_key": instance.id}}},
    }


def _reached(instance: str, address: Json, *, gated: bool) -> Json:
    """Directly, or through the gate that counts its requests; its health is asked directly."""
    if not gated:
        return {"address": address}
    gate = {"server_listener_name": CAPS, "endpoint_id": instance}
    return {"address": {"envoy_internal_address": gate}, "health_check_config": {"address": address}}


def address_of(node: str, hosts: Mapping[str, str]) -> str:
    """Envoy's endpoints are IP addresses: names would have to be looked up by somebody."""
    host = hosts.get(node, "")
    if not is_ip(host):
        what = f'"{host}" is no IP address' if host else "its address is not known"
        raise InputError(f"the router cannot reach node {node}: {what}", hint="Give the node's IP address as its host.")
    return host


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_every(text: str) -> bool:
    """0.0.0.0 or ::"""
    return is_ip(text) and ipaddress.ip_address(text).is_unspecified


def socket_address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(pool: RoutedPool, folder: str, options: Options) -> Json:
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=pool.cluster,
        type="EDS",
        eds_cluster_config={"eds_config": watched(f"{folder}/xds/eds/{pool.cluster}.yaml")},
        connect_timeout="0.5s",
        load_balancing_policy={"policies": [{"typed_extension_config": _choice(pool, options)}]},
        common_lb_config={"healthy_panic_threshold": {"value": 0}, "update_merge_window": MERGE_WINDOW},
        track_cluster_stats={"per_endpoint_stats": True},  # told by instance to whoever asks; costs nothing otherwise
        circuit_breakers=circuit_breakers(_places_for_low(pool, options)),
        ignore_health_on_host_removal=True,
        health_checks=[_health_check(options)],
        **({} if _has_several(pool, options) else {"outlier_detection": _ejection()}),
        **dead_connections(),
        typed_extension_protocol_options=http_options(tell_instance=bool(pool.capped)),
    )


def _has_several(pool: RoutedPool, options: Options) -> bool:
    return any(member.instance.id in options.several for member in pool.members)


def first_alive(name: str, pools: Sequence[RoutedPool]) -> Json:
    """A cluster that is the first of the pools with a healthy member."""
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        connect_timeout="0.5s",
        lb_policy="CLUSTER_PROVIDED",
        circuit_breakers=circuit_breakers(),
        typed_extension_protocol_options=http_options(tell_instance=any(pool.capped for pool in pools)),
        cluster_type=extension(
            "envoy.clusters.aggregate",
            "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
            clusters=[pool.cluster for pool in pools],
        ),
    )


def _places_for_low(pool: RoutedPool, options: Options) -> int:
    places = sum(member.instance.max_concurrency for member in pool.members)
    return max(1, places * options.low_percent // 100)


def _choice(pool: RoutedPool, options: Options) -> Json:
    """Generation goes where its prefix is cached, within a bound by weight; other tasks where fewest requests run."""
    policies = "envoy.extensions.load_balancing_policies"
    if pool.task != "generate":
        return extension(
            "envoy.load_balancing_policies.least_request",
            f"{policies}.least_request.v3.LeastRequest",
            active_request_bias={"default_value": 1.0, "runtime_key": "llmfleet.active_request_bias"},
        )
    return extension(
        "envoy.load_balancing_policies.ring_hash",
        f"{policies}.ring_hash.v3.RingHash",
        minimum_ring_size=_ring_size(len(pool.members)),
        consistent_hashing_lb_config={"hash_balance_factor": options.balance_percent},
    )


def _ring_size(members: int) -> int:
    """Enough points for each member that shares come out within about 1 % of the whole."""
    size = 16384
    while size < 1024 * members and size < 1 << 18:
        size *= 2
    return size


def circuit_breakers(most_requests: int = UNLIMITED) -> Json:
    """`most_requests` bounds those of DEFAULT priority. Clients' requests are HIGH where the two differ, see low.py."""
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_retries"), UNLIMITED)
    high = {"priority": "HIGH", **limits, "max_requests": UNLIMITED}
    return {"thresholds": [{"priority": "DEFAULT", **limits, "max_requests": most_requests}, high]}


def _health_check(options: Options) -> Json:
    interval = seconds(options.health_interval_s)
    return {
        "timeout": seconds(options.health_timeout_s),
        "interval": interval,
        "no_traffic_interval": interval,
        "unhealthy_interval": interval,
        "unhealthy_threshold": options.health_failures,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/health"},
    }


def _ejection() -> Json:
    """Two failed connections in a row take a member out at once; busy answers (503) never do."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_time": "10s",
        "max_ejection_percent": 100,
    }


def dead_connections() -> Json:
    """A node that vanished acknowledges nothing: its connections end after two seconds."""
    user_timeout = {
        "description": "TCP_USER_TIMEOUT",
        "level": IPPROTO_TCP,
        "name": TCP_USER_TIMEOUT,
        "int_value": 2000,
    }
    return {
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 2, "keepalive_time": 1, "keepalive_interval": 1}
        },
        "upstream_bind_config": {"socket_options": [{**user_timeout, "state": "STATE_PREBIND"}]},
    }


def http_options(*, tell_instance: bool = False) -> Json:
    """Idle connections end before the engine's own limit (5 s in uvicorn), so that none closes under a request."""
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = typed(
        name,
        explicit_http_config={"http_protocol_options": {}},
        common_http_protocol_options={"idle_timeout": "4s"},
    )
    return {name: {**options, "http_filters": _instance_told()} if tell_instance else options}


def _instance_told() -> list[Json]:
    """Each try carries the instance it is for, so that one gate serves all: routes are chosen before instances are."""
    told = set_header(AT, "at.%UPSTREAM_METADATA(llmfleet:instance)%")
    return [
        extension(
            "envoy.filters.http.header_mutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": [{"append": told}]},
        ),
        extension(
            "envoy.filters.http.upstream_codec",
            "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        ),
    ]


def seconds(value: float) -> str:
    return f"{value:g}s"
