"""The router's whole configuration as files, from a plan. Equal plans give equal text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmfleet.launch.router.clients import (
    AUTH,
    ENGINES_FILE,
    LIMITS,
    ClientKey,
    auth_filter,
    engine_filter,
    limit_filter,
)
from llmfleet.launch.router.clusters import address_of, cluster, endpoints, first_alive, is_every, is_ip
from llmfleet.launch.router.gates import LOW, capped_clusters, caps_gate, gate_cluster
from llmfleet.launch.router.listener import CLASSIFY, bootstrap, classifier, listener
from llmfleet.launch.router.low import low_gate, low_routes
from llmfleet.launch.router.options import DEFAULTS, Options
from llmfleet.launch.router.pools import RoutedPool, ServicePools, routed_pools, service_pools
from llmfleet.launch.router.routes import alive_cluster, alive_pools, client_routes
from llmfleet.launch.router.tls import TLS_FILE, Certificate, secret
from llmfleet.launch.router.xds import Json, discovery, to_yaml
from llmfleet.planner.plan import Plan, RouterPlan


def router_files(
    plan: Plan,
    *,
    hosts: Mapping[str, str],
    folder: str,
    node: str | None = None,
    draining: frozenset[str] = frozenset(),
    keys: Sequence[ClientKey] | None = None,
    certificate: Certificate | None = None,
    engine_key: str | None = None,
    options: Options = DEFAULTS,
) -> Mapping[str, str]:
    """Text by path below `folder` (absolute, on the router's node), in the order in which to rename files into place.

    `node`: which of the router's nodes, the first if left out; files differ in nothing but its address and `folder`.
    `hosts`: IP address by node name. `draining`: instances that get no new requests; what runs there goes on.
    `keys`: who may ask; anybody where it is None. `engine_key`: what engines want to see. `certificate`: HTTPS; HTTP
    where it is None.
    Raises InputError where a node has no IP address or a fallback is none.
    """
    pools = [pool for service in plan.services for pool in routed_pools(plan, service)]
    services = [service_pools(plan, service) for service in plan.services]
    router, node = plan.router, node or plan.router.node
    addresses = listen_addresses(router, node, hosts)
    return {
        **{
            f"xds/eds/{pool.cluster}.yaml": discovery(
                [endpoints(pool, hosts, draining, _stands_in_for(pool, services))]
            )
            for pool in pools
        },
        "xds/cds.yaml": discovery(
            [
                *(cluster(pool, folder, options) for pool in pools),
                *_spilling(services),
                *capped_clusters(pools, hosts),
                gate_cluster(LOW),
            ]
        ),
        f"xds/ecds/{AUTH}.yaml": discovery([auth_filter(keys)]),
        f"xds/ecds/{LIMITS}.yaml": discovery([limit_filter(keys)]),
        **({ENGINES_FILE: discovery([engine_filter(engine_key)])} if engine_key else {}),
        f"xds/ecds/{CLASSIFY}.yaml": discovery([classifier(plan)]),
        "xds/low.yaml": discovery([low_routes(plan, services)]),
        "xds/rds.yaml": discovery([client_routes(plan, services)]),
        **({TLS_FILE: secret(certificate)} if certificate else {}),
        "xds/lds.yaml": discovery(
            [
                listener(
                    addresses, router.port, folder, options, tls=certificate is not None, engine_key=bool(engine_key)
                ),
                caps_gate(),
                low_gate(folder),
            ]
        ),
        "bootstrap.yaml": to_yaml(bootstrap(plan.cluster, router.admin_port, folder)),
    }


def listen_addresses(router: RouterPlan, node: str, hosts: Mapping[str, str]) -> tuple[str, ...]:
    """The node's own first, then the one that routers share, which may be at another node now."""
    if is_every(router.bind):
        return (router.bind,)
    own = router.bind if is_ip(router.bind) and node == router.node else address_of(node, hosts)
    shared = router.address
    return (own, shared) if shared is not None and is_ip(shared) and shared != own else (own,)


def _stands_in_for(pool: RoutedPool, services: list[ServicePools]) -> list[str]:
    return [s.service.name for s in services if pool in s.degraded]


def _spilling(services: list[ServicePools]) -> list[Json]:
    """One more cluster for every service whose requests have somewhere else to go when its instances are all dead."""
    return [
        first_alive(alive_cluster(s.service, long=long), alive)
        for s in services
        for long in (False, True)
        if len(alive := alive_pools(s, long=long)) > 1
    ]
