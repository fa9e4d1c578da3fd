"""The plan's routing for other routers. Each says what it cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from llmfleet.launch.router.exports import haproxy, litellm, llm_d, nginx, ray_serve, vllm_router
from llmfleet.launch.router.exports.export import Export, Fleet
from llmfleet.planner.plan import Plan

FORMATS: Mapping[str, Callable[[Fleet], Export]] = MappingProxyType(
    {
        "vllm-router": vllm_router.export,
        "ray-serve": ray_serve.export,
        "haproxy": haproxy.export,
        "nginx": nginx.export,
        "litellm": litellm.export,
        "llm-d": llm_d.export,
    }
)


def exported(form: str, plan: Plan, hosts: Mapping[str, str]) -> Export:
    """`form` is one of FORMATS, `hosts` has an IP address for each node."""
    return FORMATS[form](Fleet(plan, hosts))
