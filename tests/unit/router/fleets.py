"""Small plans to emit a router for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmfleet.planner.plan import Budget, Expected, Instance, Plan, Pool, RouterPlan, ServicePlan, Task

BUDGET = Budget(80, 34, 2, 1, 1, 36, 6)
EXPECTED = Expected(500, 40, 1000, 3, (400, 600), (30, 50))


def instance(
    name: str,
    service: str,
    model: str,
    task: Task,
    node: str,
    port: int,
    *,
    weight: int = 100,
    max_model_len: int = 16_384,
) -> Instance:
    return Instance(
        id=name,
        service=service,
        model=model,
        task=task,
        engine="vllm",
        engine_version="0.32.0",
        image=None,
        nodes=(node,),
        gpus={node: (0,)},
        tp=1,
        pp=1,
        pp_partition=None,
        dtype="bfloat16",
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=max_model_len,
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        kv_cache_memory_bytes=36 << 30,
        gpu_memory_utilization=0.9,
        port=port,
        budget=BUDGET,
        expected=EXPECTED,
        weight=weight,
        max_concurrency=64,
        reason="",
        weights_path="{models}/" + model,
    )


def rag_plan(ports: Sequence[int] = range(8100, 8107), *, router_port: int = 8080, admin_port: int = 9901) -> Plan:
    """Three unequal chat instances, one for long prompts, one small stand-in, one embedder, one ranker."""
    chat = "Qwen/Qwen1.5-72B-Chat"
    instances = (
        instance("chat-a", "chat", chat, "generate", "n0", ports[0], weight=100),
        instance("chat-b", "chat", chat, "generate", "n1", ports[1], weight=50),
        instance("chat-c", "chat", chat, "generate", "n2", ports[2], weight=25),
        instance("chat-long", "chat", chat, "generate", "n3", ports[3], max_model_len=131_072),
        instance("lite-a", "chat-lite", "Qwen/Qwen1.5-14B-Chat", "generate", "n4", ports[4]),
        instance("embed-a", "embed", "BAAI/bge-m3", "embed", "n5", ports[5]),
        instance("rank-a", "rank", "BAAI/bge-reranker-v2-m3", "rerank", "n5", ports[6]),
    )
    services = (
        ServicePlan(
            "chat",
            chat,
            "generate",
            6,
            10,
            True,
            (
                Pool("main", ("chat-a", "chat-b", "chat-c"), 0.72, "main"),
                Pool("long", ("chat-long",), 0.28, "long", over_tokens=16_000),
            ),
            fallback="chat-lite",
        ),
        ServicePlan(
            "chat-lite",
            "Qwen/Qwen1.5-14B-Chat",
            "generate",
            0,
            1,
            True,
            (Pool("fallback", ("lite-a",), 0, "fallback"),),
        ),
        ServicePlan("embed", "BAAI/bge-m3", "embed", 20, 300, True, (Pool("main", ("embed-a",), 1, "main"),)),
        ServicePlan(
            "rank", "BAAI/bge-reranker-v2-m3", "rerank", 20, 300, True, (Pool("main", ("rank-a",), 1, "main"),)
        ),
    )
    return Plan("rag", "head", instances, services, RouterPlan("head", "127.0.0.1", router_port, admin_port))


def hosts_of(plan: Plan, host: str = "127.0.0.1") -> Mapping[str, str]:
    return {node: host for i in plan.instances for node in i.nodes}


def with_weights(plan: Plan, **weights: int) -> Plan:
    """`chat_a=10` sets the weight of chat-a."""
    by_id = {name.replace("_", "-"): weight for name, weight in weights.items()}
    return replace(plan, instances=tuple(replace(i, weight=by_id.get(i.id, i.weight)) for i in plan.instances))


def with_window(plan: Plan, prefix_bytes: int) -> Plan:
    return replace(plan, services=tuple(replace(s, prefix_bytes=prefix_bytes) for s in plan.services))


def with_caps(plan: Plan, **caps: int) -> Plan:
    """`chat_a=4`: chat-a's engine takes any number of requests, and the plan gives it four at once."""
    by_id = {name.replace("_", "-"): cap for name, cap in caps.items()}
    old = {
        i.id: replace(i, engine_version="0.19.1", max_concurrency=by_id[i.id])
        for i in plan.instances
        if i.id in by_id
    }
    return replace(plan, instances=tuple(old.get(i.id, i) for i in plan.instances))


def with_places(plan: Plan, **places: int) -> Plan:
    """`chat_a=4`: the plan gives chat-a four requests at once, which its engine sees to itself."""
    by_id = {name.replace("_", "-"): count for name, count in places.items()}
    return replace(
        plan,
        instances=tuple(replace(i, max_concurrency=by_id.get(i.id, i.max_concurrency)) for i in plan.instances),
    )
