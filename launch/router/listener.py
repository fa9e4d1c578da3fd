"""The listener, its filters, and the bootstrap: what stays as it is while the router runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from llmfleet.launch.router import answers
from llmfleet.launch.router.clients import AUTH, CLIENT, ENGINES, KEY_AUTH, LIMITS, NOTHING, RATE_LIMIT
from llmfleet.launch.router.clusters import seconds, socket_address
from llmfleet.launch.router.gates import router_filter
from llmfleet.launch.router.names import client_names
from llmfleet.launch.router.options import Options
from llmfleet.launch.router.routes import ASKED_PRIORITY, INSTANCE, MODEL, PREFIX, PRIORITY, ROUTES, TOKENS
from llmfleet.launch.router.tls import transport_socket
from llmfleet.launch.router.xds import Json, extension, set_header, typed, watched
from llmfleet.planner.plan import PREFIX_BYTES, Plan

LUA = "envoy.extensions.filters.http.lua.v3.Lua"
CLASSIFY = "classify"
RETRY_AFTER_S = "2"


def bootstrap(cluster: str, admin_port: int, folder: str) -> Json:
    """The admin interface can stop the router and shows its configuration: it never leaves the machine."""
    return {
        "node": {"id": f"{cluster}-router", "cluster": cluster},
        "admin": {"address": socket_address("127.0.0.1", admin_port)},
        "dynamic_resources": {
            "lds_config": watched(f"{folder}/xds/lds.yaml"),
            "cds_config": watched(f"{folder}/xds/cds.yaml"),
        },
        "bootstrap_extensions": [
            extension(
                "envoy.bootstrap.internal_listener",
                "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            )
        ],
        "overload_manager": {
            "resource_monitors": [
                extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=50_000,
                )
            ]
        },
    }


def classifier(plan: Plan) -> Json:
    code = resources.files("llmfleet.launch.router").joinpath("classify.lua").read_text()
    windows = {name: service.prefix_bytes for name, service in client_names(plan).items()}
    own = ", ".join(f"[{_lua(name)}] = {size}" for name, size in windows.items() if size != PREFIX_BYTES)
    source = f"local PREFIX_BYTES, PREFIX_BYTES_OF = {PREFIX_BYTES}, {{{own}}}\n{code}"
    return typed(
        "envoy.config.core.v3.TypedExtensionConfig",
        name=CLASSIFY,
        typed_config=typed(LUA, default_source_code={"inline_string": source}),
    )


def _lua(text: str) -> str:
    return '"' + "".join(f"\\{byte:03}" for byte in text.encode()) + '"'


def listener(
    addresses: Sequence[str], port: int, folder: str, options: Options, *, tls: bool = False, engine_key: bool = False
) -> Json:
    """`addresses` beyond the first need not be this machine's: they move between routers."""
    first, *shared = addresses
    moving = {"additional_addresses": [{"address": socket_address(a, port)} for a in shared], "freebind": True}
    return typed(
        "envoy.config.listener.v3.Listener",
        name="llmfleet",
        address=socket_address(first, port),
        **(moving if shared else {}),
        per_connection_buffer_limit_bytes=options.body_limit_bytes,
        filter_chains=[
            {
                "filters": [
                    extension(
                        "envoy.filters.network.http_connection_manager",
                        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        **_http(folder, options, engine_key=engine_key),
                    )
                ],
                **({"transport_socket": transport_socket(folder)} if tls else {}),
            }
        ],
    )


def _http(folder: str, options: Options, *, engine_key: bool) -> Json:
    return {
        "stat_prefix": "llmfleet",
        "server_name": "llmfleet",
        "rds": {"route_config_name": ROUTES, "config_source": watched(f"{folder}/xds/rds.yaml")},
        "http_filters": [
            _watched_filter(folder, AUTH, KEY_AUTH, NOTHING),
            _watched_filter(folder, LIMITS, RATE_LIMIT, NOTHING),
            *([_watched_filter(folder, ENGINES, NOTHING)] if engine_key else []),
            _watched_filter(folder, CLASSIFY, LUA),
            _refusals(),
            router_filter(),
        ],
        "early_header_mutation_extensions": [_strip_forged()],
        "local_reply_config": {
            "mappers": [_unknown_key(), _too_often(), *map(_error_shape, (408, 413, 431)), _error_shape(500, "GE")]
        },
        "use_remote_address": True,
        "skip_xff_append": True,
        "merge_slashes": True,
        "always_set_request_id_in_response": True,
        "request_headers_timeout": "10s",
        "request_timeout": "300s",  # to send the whole request; answers may take as long as they like
        "stream_idle_timeout": seconds(options.idle_timeout_s),
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "access_log": [_access_log()],
    }


def _watched_filter(folder: str, name: str, *kinds: str) -> Json:
    """A filter in a file of its own, so that a new version reaches a live listener without touching it."""
    types = [f"type.googleapis.com/{kind}" for kind in kinds]
    source = watched(f"{folder}/xds/ecds/{name}.yaml")
    return {"name": name, "config_discovery": {"config_source": source, "type_urls": types}}


def _refusals() -> Json:
    """What the last of the full engines said, in its own words and headers, becomes one answer that clients know."""
    refused = [
        _single("envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput", _regex("429|503")),
        _single("envoy.type.matcher.v3.HttpResponseHeaderMatchInput", _regex(".+"), header_name=INSTANCE),
    ]
    answer = extension(
        "full",
        "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
        status_code=429,
        body_format={"json_format": answers.all_full(MODEL)},
        response_headers_to_add=[
            set_header("retry-after", RETRY_AFTER_S),
            set_header("content-type", "application/json"),
        ],
    )
    matcher = {"predicate": {"and_matcher": {"predicate": refused}}, "on_match": {"action": answer}}
    return extension(
        "envoy.filters.http.custom_response",
        "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
        custom_response_matcher={"matcher_list": {"matchers": [matcher]}},
    )


def _single(kind: str, value: Json, **fields: str) -> Json:
    return {"single_predicate": {"input": extension("of-the-answer", kind, **fields), "value_match": value}}


def _regex(pattern: str) -> Json:
    return {"safe_regex": {"regex": pattern, "google_re2": {}}}


def _strip_forged() -> Json:
    """Only the router itself sets these: a client that could would choose its own route. What it may ask for, low
    priority, goes on under another name. Envoy by itself drops those of x-envoy-* that would tell it something."""
    asked = {"append": set_header(ASKED_PRIORITY, f"%REQ({PRIORITY})%")}
    ours = {"remove_on_match": {"key_matcher": {"prefix": "x-llmfleet-"}}}
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[asked, ours],
    )


def _unknown_key() -> Json:
    return _mapper({"status_code_filter": _status(401)}, answers.unknown_key())


def _too_often() -> Json:
    """Limits come before the classifier; a refusal for want of a place (429 too) comes after it."""
    not_classified = {"header_filter": {"header": {"name": MODEL, "present_match": True, "invert_match": True}}}
    limited = {"and_filter": {"filters": [{"status_code_filter": _status(429)}, not_classified]}}
    return {**_mapper(limited, answers.too_often(CLIENT)), "headers_to_add": [set_header("retry-after", "1")]}


def _error_shape(status: int, compare: str = "EQ") -> Json:
    """Envoy's own errors (too large, nobody healthy) as clients of the OpenAI API expect them."""
    body = answers.error("%LOCAL_REPLY_BODY%", "server_error", code="%RESPONSE_CODE_DETAILS%")
    mapper = _mapper({"status_code_filter": _status(status, compare)}, body)
    if status >= 500:
        mapper["headers_to_add"] = [set_header("retry-after", RETRY_AFTER_S)]
    return mapper


def _mapper(which: Json, body: Json) -> Json:
    return {"filter": which, "body_format_override": {"json_format": body, "content_type": "application/json"}}


def _status(status: int, compare: str = "EQ") -> Json:
    value = {"default_value": status, "runtime_key": f"llmfleet.errors_{status}"}
    return {"comparison": {"op": compare, "value": value}}


def _access_log() -> Json:
    """One JSON line a request on stdout, which the supervisor keeps and rotates. Nothing of the prompt is in it."""
    fields = {
        "time": "%START_TIME%",
        "request": "%REQ(x-request-id)%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "key": f"%REQ({CLIENT})%",
        "method": "%REQ(:method)%",
        "path": "%PATH(NQ)%",
        "priority": f"%REQ({ASKED_PRIORITY})%",
        "model": f"%REQ({MODEL})%",
        "prefix": f"%REQ({PREFIX})%",
        "tokens": f"%REQ({TOKENS})%",
        "route": "%ROUTE_NAME%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "pool": "%RESP(x-llmfleet-pool)%",
        "instance": f"%RESP({INSTANCE})%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "first_byte_ms": "%RESPONSE_DURATION%",
        "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
    }
    return extension(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={"json_format": fields},
    )
