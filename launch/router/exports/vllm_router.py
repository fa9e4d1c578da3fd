"""vllm-router: one process a service, since it knows no models unless workers are registered one by one."""

from __future__ import annotations

import shlex

from llmfleet.launch.router.exports.export import (
    BOUND,
    HEADERS,
    HEALTH_S,
    KEYS,
    PRIORITY,
    UNKNOWN,
    WEIGHTS,
    Export,
    Fleet,
)
from llmfleet.planner.plan import Task

POLICY: dict[Task, str] = {"generate": "cache_aware", "embed": "round_robin", "rerank": "round_robin"}
RERANK = "/v1/rerank, since answers of vLLM's shape give 500; /v1/score works"
METRICS_PORT = 29000  # its own default; each process needs one of its own


def export(fleet: Fleet) -> Export:
    """A shell script. Flags as in vllm-router 0.1.17."""
    router = fleet.plan.router
    head = f"# {fleet.plan.cluster}: one vllm-router a service. `smg launch` takes the same flags for chat."
    lines = ["#!/bin/sh", head, "set -eu"]
    for n, (service, pool) in enumerate(fleet.services):
        urls = [f"http://{fleet.address(member.instance)}" for member in pool.members]
        argv = (
            "vllm-router",
            *("--host", router.bind, "--port", str(router.port + n)),
            *("--policy", POLICY[service.task]),
            *("--health-check-interval-secs", str(HEALTH_S), "--health-failure-threshold", "2"),
            *("--prometheus-port", str(METRICS_PORT + n)),
            *("--worker-urls", *urls),
        )
        lines += [f"# {service.name}: http://{router.bind}:{router.port + n}/v1", f"{shlex.join(argv)} &"]
    lines += ["wait", ""]
    dropped = [WEIGHTS, BOUND, "one address for all services: each has a port", UNKNOWN, PRIORITY, KEYS, HEADERS]
    dropped += [f"{s.name}: {RERANK}" for s, _ in fleet.services if s.task == "rerank"]
    return Export("\n".join(lines), fleet.missing(*dropped))
