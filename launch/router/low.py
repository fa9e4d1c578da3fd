"""Low priority: such requests hold only part of a pool's places, and go to the fallback first.

They pass a gate. Behind it they are of Envoy's DEFAULT priority, whose requests each cluster counts and bounds by
themselves; all others are HIGH and unbounded. What is above the bound comes back through the gate as a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmfleet.launch.router.gates import LOW, gate
from llmfleet.launch.router.names import names_of
from llmfleet.launch.router.pools import ServicePools
from llmfleet.launch.router.routes import BY_PREFIX, MODEL, alive_cluster, alive_pools, matches, retries, told
from llmfleet.launch.router.tables import by_header, in_order, looked_up, route_table
from llmfleet.launch.router.xds import Json, typed, watched
from llmfleet.planner.plan import Plan


def low_gate(folder: str) -> Json:
    return gate(LOW, rds={"route_config_name": LOW, "config_source": watched(f"{folder}/xds/low.yaml")})


def low_routes(plan: Plan, services: Sequence[ServicePools]) -> Json:
    """To the service's own pools, each request to the instance it would reach anyway."""
    known = {
        name: in_order([_route(pools, match, long=long) for long, match in matches(pools)])
        for pools in services
        if alive_pools(pools)
        for name in names_of(plan, pools.service)
    }
    # Everything may be drained, and Envoy refuses a map with nothing in it.
    table = looked_up(LOW, by_header(MODEL, known)) if known else route_table(LOW, [])
    return typed("envoy.config.route.v3.RouteConfiguration", **table)


def _route(pools: ServicePools, match: Json, *, long: bool) -> Json:
    alive = alive_pools(pools, long=long)
    action: Json = {
        "cluster": alive_cluster(pools.service, long=long) if len(alive) > 1 else alive[0].cluster,
        "timeout": "0s",
        "retry_policy": {**retries(1), "retry_on": "connect-failure,refused-stream,reset"},  # refusals go on outside
    }
    if pools.service.task == "generate":
        action["hash_policy"] = BY_PREFIX
    return {"match": match, "route": action, "response_headers_to_add": told(pools)}
