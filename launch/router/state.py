"""What a running router says of itself, from its admin interface."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmfleet.planner.errors import StateError


def clusters_url(admin_port: int) -> str:
    return f"http://127.0.0.1:{admin_port}/clusters?format=json"


def stats_url(admin_port: int, filter_: str) -> str:
    """`filter_` is a regular expression on names, without characters that a URL would need escaped."""
    return f"http://127.0.0.1:{admin_port}/stats?format=json&filter={filter_}"


def server_url(admin_port: int) -> str:
    return f"http://127.0.0.1:{admin_port}/server_info"


@dataclass(frozen=True, slots=True)
class RouterLife:
    epoch: int  # hot restarts since the first process
    uptime_s: float  # of the one that answers


def parse_server(text: str) -> RouterLife | None:
    """The process that answers; None while it is not ready.

    Raises StateError when the text is no answer of server_url.
    """
    try:
        info = json.loads(text)
        if info["state"] != "LIVE":
            return None
        uptime = float(str(info["uptime_current_epoch"]).rstrip("s"))
        return RouterLife(int(info["command_line_options"]["restart_epoch"]), uptime)
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"the router's admin interface answered something else than its state: {text[:80]!r}"
        ) from error


@dataclass(frozen=True, slots=True)
class InstanceTraffic:
    """One instance as the router sees it. Counts are tries since the router started or first knew the instance."""

    instance: str
    cluster: str
    address: str  # host:port
    active: int  # requests on it now
    total: int
    success: int
    error: int
    timeout: int
    connect_failures: int
    weight: int
    draining: bool
    healthy: bool  # gets requests, unless it is draining
    flags: tuple[str, ...]  # why it is not healthy, in Envoy's words


def parse_clusters(text: str) -> tuple[InstanceTraffic, ...]:
    """Every instance in the answer of clusters_url, in its order; none while the router is starting.

    Raises StateError when the text is no such answer.
    """
    try:
        clusters = json.loads(text).get("cluster_statuses", ())
        hosts = [(c["name"], host) for c in clusters for host in c.get("host_statuses", ())]
        behind_gates = {name: _address(host) for name, host in hosts if name.startswith("at.")}
        return tuple(_traffic(name, host, behind_gates) for name, host in hosts if host.get("hostname"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"the router's admin interface answered something else than its clusters: {text[:80]!r} ({error})",
            hint="Is another program listening on router.admin_port?",
        ) from error


def parse_stats(text: str) -> Mapping[str, int]:
    """Counters and gauges by name. Raises StateError when the text is no answer of stats_url."""
    try:
        return {stat["name"]: int(stat["value"]) for stat in json.loads(text).get("stats", ()) if "value" in stat}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"the router's admin interface answered something else than its stats: {text[:80]!r}"
        ) from error


def in_flight(traffic: tuple[InstanceTraffic, ...], instances: frozenset[str]) -> int:
    """Requests that are running on these instances."""
    return sum(t.active for t in traffic if t.instance in instances)


def _address(host: Mapping[str, Any]) -> str:
    socket = host["address"]["socket_address"]
    return f"{socket['address']}:{socket['port_value']}"


def _traffic(cluster: str, host: Mapping[str, Any], behind_gates: Mapping[str, str]) -> InstanceTraffic:
    instance = host["hostname"]
    counts = {stat["name"]: int(stat.get("value", 0)) for stat in host.get("stats", ())}
    health = host.get("health_status", {})
    flags = tuple(name for name, value in health.items() if value is True)
    draining = health.get("eds_health_status") == "DRAINING"
    return InstanceTraffic(
        instance=instance,
        cluster=cluster,
        address=behind_gates.get(f"at.{instance}") or _address(host),
        active=counts.get("rq_active", 0),
        total=counts.get("rq_total", 0),
        success=counts.get("rq_success", 0),
        error=counts.get("rq_error", 0),
        timeout=counts.get("rq_timeout", 0),
        connect_failures=counts.get("cx_connect_fail", 0),
        weight=host.get("weight", 0),
        draining=draining,
        healthy=not flags,
        flags=flags,
    )
