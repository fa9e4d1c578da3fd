"""HAProxy: the nearest of the others. Needs 2.6 or newer for `balance hash`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from llmfleet.launch.router import answers
from llmfleet.launch.router.exports.export import HEADERS, HEALTH_S, KEYS, PRIORITY, Export, Fleet, scaled
from llmfleet.launch.router.options import DEFAULTS
from llmfleet.launch.router.pools import RoutedPool
from llmfleet.planner.plan import ServicePlan

BUFFER_BYTES = 262_144  # of a request that can be looked at; two for each connection
MOST_WEIGHT = 256
PREFIX = ("$.messages[0].content", "$.messages[1].content", "$.prompt")
DROPPED = (
    f"bodies above {BUFFER_BYTES // 1024} KB: their model is not seen, and they are refused",
    "keys of a conversation by its text: the first two messages decide, and lists of parts are not read",
    "spilling of refusals with 429: only 503 is tried elsewhere",
)


def export(fleet: Fleet) -> Export:
    router = fleet.plan.router
    lines = [
        f"# {fleet.plan.cluster}: haproxy -f THIS_FILE",
        "global",
        f"    tune.bufsize {BUFFER_BYTES}",
        "defaults",
        "    mode http",
        *(f"    timeout {what} {s}s" for what, s in (("connect", 1), ("client", 600), ("server", 600), ("queue", 5))),
        "    option http-buffer-request",
        "    retries 3",
        "    option redispatch 1",
        "    retry-on conn-failure empty-response response-timeout 503",
        "frontend clients",
        f"    bind {router.bind}:{router.port}",
        "    http-request set-var(txn.model) req.body,json_query('$.model') if METH_POST",
        *_prefix(),
        *_answers(fleet),
        *(f"    use_backend {_name(s)} if {_is_named(fleet, s)}" for s, _ in fleet.services),
    ]
    for service, pool in fleet.services:
        lines += _backend(fleet, service, pool)
    text = "\n".join([*lines, ""])
    return Export(text, fleet.missing(*DROPPED, PRIORITY, KEYS, HEADERS, capped=True, fallback=True))


def _prefix() -> Iterator[str]:
    for n, path in enumerate(PREFIX):
        yield f"    http-request set-var(txn.part{n}) req.body,json_query('{path}') if METH_POST"
    yield "    http-request set-var-fmt(txn.prefix) %[var(txn.part0)]%[var(txn.part1)]%[var(txn.part2)]"


def _answers(fleet: Fleet) -> Iterator[str]:
    models = json.dumps(answers.model_list(fleet.plan), ensure_ascii=False)
    yield (
        "    http-request return status 200 content-type application/json string "
        f"{_quoted(models)} if METH_GET {{ path /v1/models }}"
    )
    names = " ".join(_quoted(name) for s, _ in fleet.services for name in fleet.names(s))
    yield (
        "    http-request return status 404 content-type application/json string "
        f"{_quoted(_unknown(fleet))} unless {{ var(txn.model) -m str {names} }}"
    )


def _unknown(fleet: Fleet) -> str:
    known = ", ".join(s.name for s in fleet.plan.services)
    message = f"No such model. Models: {known}."
    return json.dumps(answers.error(message, param="model", code="model_not_found"))


def _is_named(fleet: Fleet, service: ServicePlan) -> str:
    return "{ var(txn.model) -m str " + " ".join(_quoted(name) for name in fleet.names(service)) + " }"


def _backend(fleet: Fleet, service: ServicePlan, pool: RoutedPool) -> Iterator[str]:
    yield f"backend {_name(service)}"
    if service.task == "generate":
        yield "    balance hash var(txn.prefix)"
        yield "    hash-type consistent"
        yield f"    hash-balance-factor {DEFAULTS.balance_percent}"
    else:
        yield "    balance leastconn"
    yield "    option httpchk GET /health"
    yield f"    default-server check inter {HEALTH_S}s fall 2 rise 1"
    weights = scaled([member.weight for member in pool.members], MOST_WEIGHT)
    for member, weight in zip(pool.members, weights, strict=True):
        cap = "" if member.cap is None else f" maxconn {member.cap}"
        yield f"    server {member.instance.id} {fleet.address(member.instance)} weight {weight}{cap}"
    if stand_in := fleet.fallback(service):
        for member in stand_in[1].members:
            yield f"    server fallback-{member.instance.id} {fleet.address(member.instance)} backup"


def _name(service: ServicePlan) -> str:
    return f"service-{service.name}"


def _quoted(text: str) -> str:
    """Strong quotes: nothing inside means anything, but for the quote itself."""
    return "'" + text.replace("'", "'\\''") + "'"
