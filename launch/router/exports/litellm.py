"""LiteLLM's proxy: a deployment for each instance, chosen by weight."""

from __future__ import annotations

from llmfleet.launch.router.exports.export import AFFINITY, BOUND, HEADERS, KEYS, PRIORITY, Export, Fleet
from llmfleet.launch.router.names import served_names
from llmfleet.launch.router.pools import Member
from llmfleet.launch.router.xds import Json, to_yaml
from llmfleet.planner.plan import ServicePlan


def export(fleet: Fleet) -> Export:
    """config.yaml of `litellm --config`. Keys as in LiteLLM's proxy configuration."""
    deployments = [_deployment(fleet, s, member) for s, pool in fleet.services for member in pool.members]
    names = {name: s.name for s, _ in fleet.services for name in fleet.names(s) if name != s.name}
    settings: Json = {"routing_strategy": "simple-shuffle", "num_retries": 3, "allowed_fails": 1, "cooldown_time": 5}
    if names:
        settings["model_group_alias"] = names
    stand_ins = [{s.name: [found[0].name]} for s, _ in fleet.services if (found := fleet.fallback(s))]
    if stand_ins:
        settings["fallbacks"] = stand_ins
    text = to_yaml({"model_list": deployments, "router_settings": settings})
    command = f"LITELLM_MASTER_KEY=sk-… litellm --config THIS_FILE --port {fleet.plan.router.port}"
    head = f"# {fleet.plan.cluster}: {command}\n"
    return Export(head + text, fleet.missing(AFFINITY, BOUND, PRIORITY, KEYS, HEADERS, capped=True, fallback=True))


def _deployment(fleet: Fleet, service: ServicePlan, member: Member) -> Json:
    """`hosted_vllm` speaks to any engine with OpenAI's API. The key is one that engines do not ask for."""
    instance = member.instance
    params: Json = {
        "model": f"hosted_vllm/{served_names(fleet.plan, instance)[0]}",
        "api_base": f"http://{fleet.address(instance)}" + ("" if service.task == "rerank" else "/v1"),
        "api_key": "none",
        "weight": member.weight,
    }
    if member.cap is not None:
        params["max_parallel_requests"] = member.cap
    return {"model_name": service.name, "litellm_params": params, "model_info": {"id": instance.id}}
