"""Routes: by task, model and length to a pool, with where to try next; and what the router answers by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmfleet.launch.router import answers
from llmfleet.launch.router.clients import AUTH
from llmfleet.launch.router.gates import LOW
from llmfleet.launch.router.names import client_names, names_of
from llmfleet.launch.router.pools import RoutedPool, ServicePools
from llmfleet.launch.router.tables import by_header, in_order, looked_up
from llmfleet.launch.router.xds import Json, extension, set_header, typed
from llmfleet.planner.plan import Plan, ServicePlan

MODEL, PREFIX, TOKENS = "x-llmfleet-model", "x-llmfleet-prefix", "x-llmfleet-tokens"
INSTANCE, PRIORITY = "x-llmfleet-instance", "x-llmfleet-priority"
ASKED_PRIORITY = "x-fleet-priority"  # of a request that is in the router
ROUTES = "llmfleet"
NO_KEY_NEEDED = {AUTH: typed("envoy.config.route.v3.FilterConfig", disabled=True)}
BY_PREFIX = [{"header": {"header_name": PREFIX}, "terminal": True}]
MOST_TOKENS = 1 << 40
OTHER_HOST_TRIES = 64  # points further on the ring that are looked at for a member that has not failed this request
RETRIES = 7  # at least: members that just died attract requests, being idle, until they are ejected a moment later
TRIES = 3  # among a pool's own members, before a request goes to a stand-in


def client_routes(plan: Plan, services: Sequence[ServicePools]) -> Json:
    """Only POST reaches engines. Requests pass here twice: before anything is known of them, and classified."""
    any_path = {"prefix": "/"}
    unknown = [
        _healthz(),
        _answer("unknown-model", {**any_path, "headers": [_present(MODEL)]}, 404, answers.unknown_model(plan, MODEL)),
        _answer("unknown-path", any_path, 404, answers.unknown_path()),
    ]
    known = {name: in_order(_service(pools)) for pools in services for name in names_of(plan, pools.service)}
    posted = by_header(MODEL, known, otherwise=in_order(unknown))
    others = [*_information(plan), _answer("unknown-method", any_path, 404, answers.unknown_path())]
    lookup = by_header(":method", {"POST": posted}, otherwise=in_order(others))
    return typed("envoy.config.route.v3.RouteConfiguration", **looked_up(ROUTES, lookup))


def _information(plan: Plan) -> list[Json]:
    get = {"headers": [_equals(":method", "GET")]}
    cards = [
        _answer("model", {"path": f"/v1/models/{name}", **get}, 200, answers.model_card(plan, name))
        for name in client_names(plan)
    ]
    return [_healthz(), _answer("models", {"path": "/v1/models", **get}, 200, answers.model_list(plan)), *cards]


def _healthz() -> Json:
    return {**_answer("healthz", {"path": "/healthz"}, 200, {"status": "ok"}), "typed_per_filter_config": NO_KEY_NEEDED}


def _service(pools: ServicePools) -> list[Json]:
    """Long prompts first, then all others, each of low priority first; then requests that belong to other tasks."""
    service = pools.service
    if not alive_pools(pools):
        routes = [_answer(service.name, usual_match(service), 503, answers.no_instance(service))]
    else:
        routes = [
            _forward(f"{service.name}{'/long' if long else ''}{'/low' if low else ''}", match, pools, steps)
            for long, usual in matches(pools)
            for low, match, steps in (
                (True, _also(usual, _equals(ASKED_PRIORITY, "low")), _low_steps(pools, long=long)),
                (False, usual, _long_steps(pools) if long else _steps(pools)),
            )
        ]
    wrong = _answer(f"{service.name}/wrong-task", {"prefix": "/"}, 400, answers.wrong_task(service))
    return [*routes, _healthz(), wrong]


def matches(pools: ServicePools) -> list[tuple[bool, Json]]:
    """What a request to the service looks like, by its model known to be one, and whether it is for the long pool."""
    usual = usual_match(pools.service)
    if pools.long is None:
        return [(False, usual)]
    over = {"name": TOKENS, "range_match": {"start": (pools.long.over_tokens or 0) + 1, "end": MOST_TOKENS}}
    return [(True, _also(usual, over)), (False, usual)]


def usual_match(service: ServicePlan) -> Json:
    paths = "|".join(re.escape(path) for path in answers.TASK_PATHS[service.task])
    return {"safe_regex": {"regex": paths}}


def _also(match: Json, header: Json) -> Json:
    return {**match, "headers": [header, *match.get("headers", ())]}


def alive_cluster(service: ServicePlan, *, long: bool = False) -> str:
    """Name of the cluster that is the service's first pool with a healthy member."""
    return f"{service.name}.any-long" if long else f"{service.name}.any"


def alive_pools(pools: ServicePools, *, long: bool = False) -> tuple[RoutedPool, ...]:
    """Pools that may take a request, in order. Long prompts only go where they fit, and to no stand-in."""
    own = [pool for pool in (pools.primary, *pools.spare) if pool is not None]
    if not long:
        return (*own, *pools.degraded)
    if pools.long is None:
        return ()
    over = pools.long.over_tokens or 0
    return (pools.long, *(pool for pool in own if pool != pools.long and _fits(pool, over)))


def _fits(pool: RoutedPool, tokens: int) -> bool:
    return all(m.instance.max_model_len > tokens for m in pool.members)


def _steps(pools: ServicePools) -> list[str]:
    """The cluster of each try: the service's own pools, the long one last, then those that stand in for it, so that
    overload costs cached prefixes and long prompts a little before it costs anybody the model that was asked for."""
    alive = alive_pools(pools)
    if len(alive) < 2:
        return [pool.cluster for pool in alive]
    tries = min(TRIES, max(1, len(pools.primary.members) if pools.primary else 1))
    spare = [pool.cluster for pool in pools.spare]
    return [alive_cluster(pools.service)] * tries + spare + _stand_ins(pools)


def _long_steps(pools: ServicePools) -> list[str]:
    alive = alive_pools(pools, long=True)
    if len(alive) < 2:
        return [pool.cluster for pool in alive]
    return [alive_cluster(pools.service, long=True)] * TRIES + [pool.cluster for pool in alive[1:]]


def _low_steps(pools: ServicePools, *, long: bool) -> list[str]:
    """One try among the service's own places, as far as they are open to low priority; then those that stand in."""
    return [LOW, *(() if long else _stand_ins(pools))]


def _stand_ins(pools: ServicePools) -> list[str]:
    return [pool.cluster for pool in pools.degraded for _ in range(min(2, len(pool.members)))]


def _forward(name: str, match: Json, pools: ServicePools, steps: Sequence[str]) -> Json:
    action: Json = {
        "timeout": "0s",
        "priority": "HIGH",
        "retry_policy": retries(len(steps)),
    }
    if len(set(steps)) == 1:
        action["cluster"] = steps[0]
    else:
        action["inline_cluster_specifier_plugin"] = {"extension": _by_try(steps)}
    if pools.service.task == "generate":
        action["hash_policy"] = BY_PREFIX
    return {"name": name, "match": match, "route": action, "response_headers_to_add": told(pools)}


def told(pools: ServicePools) -> list[Json]:
    """What clients learn of who answered. A header without a value is left out."""
    facts = {
        INSTANCE: "%UPSTREAM_METADATA(llmfleet:instance)%",
        "x-llmfleet-pool": "%UPSTREAM_METADATA(llmfleet:pool)%",
        "x-llmfleet-attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    }
    if pools.degraded:
        facts["x-llmfleet-degraded"] = f"%UPSTREAM_METADATA(llmfleet:degraded:{pools.service.name})%"
    return [set_header(name, value) for name, value in facts.items()]


def retries(tries: int) -> Json:
    """Only before an answer begins: Envoy never repeats a request whose response headers went to the client."""
    return {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "retriable_status_codes": [429, 502, 503],
        "num_retries": max(RETRIES, tries - 1),
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        **other_host(),
        "refresh_cluster_on_retry": True,
    }


def other_host() -> Json:
    """Of a retry: to a member that has not failed this request. A dead one has the fewest requests, and would be the
    next again."""
    return {
        "retry_host_predicate": [
            extension(
                "envoy.retry_host_predicates.previous_hosts",
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ],
        "host_selection_retry_max_attempts": OTHER_HOST_TRIES,
    }


def _by_try(steps: Sequence[str]) -> Json:
    """The n-th try goes to the n-th group; tries beyond the last go to the last."""
    padded = [*steps, *[steps[-1]] * (RETRIES + 1 - len(steps))]
    return extension(
        "envoy.router.cluster_specifier_plugin.priority_group",
        "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier",
        priority_groups=[
            {"name": f"try-{n}", "clusters": [{"cluster_name": cluster, "weight": 1}]}
            for n, cluster in enumerate(padded, 1)
        ],
    )


def _answer(name: str, match: Json, status: int, body: Json) -> Json:
    text = {"json_format": body, "content_type": "application/json"}
    return {"name": name, "match": match, "direct_response": {"status": status, "body_format": text}}


def _equals(header: str, value: str) -> Json:
    return {"name": header, "string_match": {"exact": value}}


def _present(header: str) -> Json:
    return {"name": header, "present_match": True}
