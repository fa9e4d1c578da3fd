"""What the router answers by itself, in the shapes of the OpenAI API.

Envoy replaces %...% in these, so that names are escaped, and an error can quote the request.
"""

from __future__ import annotations

from llmfleet.launch.router.names import client_names
from llmfleet.launch.router.xds import Json
from llmfleet.planner.plan import Plan, ServicePlan, Task

TASK_PATHS: dict[Task, tuple[str, ...]] = {
    "generate": (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    ),
    "embed": ("/v1/embeddings", "/pooling", "/tokenize", "/detokenize"),
    "rerank": ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score", "/tokenize", "/detokenize"),
}
TASK_WORDS: dict[Task, str] = {"generate": "generates text", "embed": "makes embeddings", "rerank": "ranks texts"}


def error(
    message: str, kind: str = "invalid_request_error", *, param: str | None = None, code: str | None = None
) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unknown_model(plan: Plan, header: str) -> Json:
    known = ", ".join(s.name for s in plan.services)
    message = f'The model "%REQ({header})%" does not exist. Models: {known}.'
    return error(message, param="model", code="model_not_found")


def unknown_path() -> Json:
    return error("No such path, or not with this method. GET /v1/models lists the models; requests are POSTed as JSON.")


def wrong_task(service: ServicePlan) -> Json:
    paths = ", ".join(TASK_PATHS[service.task])
    message = f'The model "{service.name}" {TASK_WORDS[service.task]}: POST to {paths}.'
    return error(message, param="model", code="wrong_task")


def no_instance(service: ServicePlan) -> Json:
    return error(f'The plan has no instance of "{service.name}".', "server_error", code="no_instance")


def all_full(header: str) -> Json:
    message = f'All instances of "%REQ({header})%" are full. Try again in a moment.'
    return error(message, "server_error", code="overloaded")


def unknown_key() -> Json:
    return error("No API key, or an unknown one. Send Authorization: Bearer KEY.", code="invalid_api_key")


def too_often(header: str) -> Json:
    return error('"%REQ(' + header + ')%" asks more often than it may.', "requests", code="rate_limit_exceeded")


def model_list(plan: Plan) -> Json:
    return {"object": "list", "data": [model_card(plan, name) for name in client_names(plan)]}


def model_card(plan: Plan, name: str) -> Json:
    """One model as GET /v1/models/NAME gives it. `created` says nothing here, but clients insist on it."""
    service = client_names(plan)[name]
    lengths = [i.max_model_len for i in plan.those(name for pool in service.pools for name in pool.instances)]
    return {
        "id": _literal(name),
        "object": "model",
        "created": 0,
        "owned_by": "llmfleet",
        "root": _literal(service.model),
        "parent": None,
        "max_model_len": max(lengths, default=0),
        "task": service.task,
    }


def _literal(text: str) -> str:
    return text.replace("%", "%%")
