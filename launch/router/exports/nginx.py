"""nginx, as it comes: it cannot read a model from a body, so that each service has a path of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

from llmfleet.launch.router import answers
from llmfleet.launch.router.exports.export import BOUND, FALLBACK, HEADERS, KEYS, PRIORITY, Export, Fleet
from llmfleet.launch.router.options import DEFAULTS
from llmfleet.launch.router.pools import RoutedPool
from llmfleet.planner.plan import PREFIX_BYTES, ServicePlan

IN_MEMORY_KB = 256
DROPPED = (
    "one address for all services: each has a path, http://ROUTER/SERVICE/v1",
    f"the key of a conversation: the body's first {PREFIX_BYTES} bytes decide, whatever they are, "
    f"and bodies above {IN_MEMORY_KB} KB have none",
    "health checks: an instance is found dead by requests that fail",
    BOUND,
    PRIORITY,
    KEYS,
    HEADERS,
)


def export(fleet: Fleet) -> Export:
    router = fleet.plan.router
    lines = [
        f"# {fleet.plan.cluster}: nginx -c THIS_FILE",
        "events { worker_connections 4096; }",
        "http {",
        '    geo $dollar { default "$"; }',
        f'    map $request_body $prefix {{ "~^(?<start>[\\s\\S]{{1,{PREFIX_BYTES}}})" $start; default ""; }}',
        "    log_format fleet '$time_iso8601 $status $upstream_addr $request_time';",
        *(line for s, pool in fleet.services for line in _upstream(fleet, s, pool)),
        "    server {",
        f"        listen {router.bind}:{router.port};",
        f"        client_max_body_size {DEFAULTS.body_limit_bytes >> 20}m;",
        f"        client_body_buffer_size {IN_MEMORY_KB}k;",
        "        client_body_in_single_buffer on;",
        "        access_log /dev/stdout fleet;",
        "        proxy_http_version 1.1;",
        '        proxy_set_header Connection "";',
        "        proxy_buffering off;",
        "        proxy_connect_timeout 1s;",
        "        proxy_read_timeout 600s;",
        "        proxy_next_upstream error timeout http_429 http_503 non_idempotent;",
        "        proxy_next_upstream_tries 3;",
        "        default_type application/json;",
        f"        location = /v1/models {{ return 200 {_quoted(json.dumps(answers.model_list(fleet.plan)))}; }}",
        *(f"        location /{s.name}/ {{ proxy_pass http://{s.name}/; }}" for s, _ in fleet.services),
        f"        location / {{ return 404 {_quoted(json.dumps(answers.unknown_path()))}; }}",
        "    }",
        "}",
        "",
    ]
    lost = tuple(d for d in fleet.missing(*DROPPED, capped=True) if d != FALLBACK)
    spilling = (f"{FALLBACK}, where prefixes decide",) if any(fleet.fallback(s) for s, _ in fleet.services) else ()
    return Export("\n".join(lines), (*lost, *spilling))


def _upstream(fleet: Fleet, service: ServicePlan, pool: RoutedPool) -> Iterator[str]:
    yield f"    upstream {service.name} {{"
    yield "        hash $prefix consistent;" if service.task == "generate" else "        least_conn;"
    for member in pool.members:
        cap = "" if member.cap is None else f" max_conns={member.cap}"
        address = fleet.address(member.instance)
        yield f"        server {address} weight={member.weight}{cap} max_fails=2 fail_timeout=5s;"
    yield "        keepalive 64;"
    yield "        keepalive_timeout 4s;"
    yield "    }"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("$", "${dollar}") + "'"
