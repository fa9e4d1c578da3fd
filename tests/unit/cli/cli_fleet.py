"""A small fleet as values: what commands get to show without any node."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llmfleet.launch.results import FleetStatus, InstanceStatus, NodeStatus, RayStatus, RouterStatus
from llmfleet.planner.plan import Budget, Expected, Instance, Plan, Pool, RouterPlan, ServicePlan, sealed

INVENTORY = """\
cluster: rag
access: {transport: fake}
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "slot-[0-1]", host: "10.0.0.[2-3]", gpus: 1 x CPU-2G}
services:
  - {name: chat, model: m, traffic: {rate: 1}}
"""


class Ran(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def instance(name: str, service: str, node: str, weight: int) -> Instance:
    return Instance(
        id=name,
        service=service,
        model="m",
        task="generate",
        engine="llama.cpp",
        engine_version="1",
        image=None,
        nodes=(node,),
        gpus={node: (0,)},
        tp=1,
        pp=1,
        pp_partition=None,
        dtype="float32",
        quantization="q4_k_m",
        kv_cache_dtype="auto",
        max_model_len=1024,
        max_num_seqs=2,
        max_num_batched_tokens=512,
        kv_cache_memory_bytes=1 << 20,
        gpu_memory_utilization=0.9,
        port=8100,
        budget=Budget(2, 0.5, 0.1, 0.1, 0, 1, 0.3),
        expected=Expected(100, 20, 50, 2, (80, 120), (15, 25)),
        weight=weight,
        max_concurrency=2,
        reason="it fits",
        weights_path="{models}/m.gguf",
    )


def small_plan(inventory_hash: str = "") -> Plan:
    """chat on both slots, 3 : 1; embed on slot-1 alone."""
    instances = (
        instance("chat-slot-0-0", "chat", "slot-0", 75),
        instance("chat-slot-1-0", "chat", "slot-1", 25),
        instance("embed-slot-1-0", "embed", "slot-1", 100),
    )
    chat = ServicePlan(
        "chat", "m", "generate", 1, 4, True, (Pool("main", ("chat-slot-0-0", "chat-slot-1-0"), 1.0, "main"),)
    )
    embed = ServicePlan("embed", "m", "embed", 1, 2, True, (Pool("main", ("embed-slot-1-0",), 1.0, "main"),))
    router = RouterPlan("head", "127.0.0.1", 8080, 9901)
    return sealed(Plan("rag", "head", instances, (chat, embed), router, inventory_hash=inventory_hash))


def healthy_status(plan: Plan) -> FleetStatus:
    nodes = (
        NodeStatus("head", "127.0.0.1", "ready", ()),
        NodeStatus("slot-0", "127.0.0.2", "ready", ("chat-slot-0-0",)),
        NodeStatus("slot-1", "127.0.0.3", "ready", ("chat-slot-1-0", "embed-slot-1-0")),
    )
    instances = tuple(
        InstanceStatus(
            i.id,
            i.service,
            i.nodes,
            i.gpus,
            "healthy",
            f"http://{i.nodes[0]}:{i.port}",
            running=2,
            waiting=0,
            kv_usage=0.37,
            prefix_hit_rate=0.5,
        )
        for i in plan.instances
    )
    router = RouterStatus(
        "head",
        "http://127.0.0.1:8080",
        "healthy",
        requests={"chat-slot-0-0": 1600, "chat-slot-1-0": 400, "embed-slot-1-0": 0},
        active={"chat-slot-0-0": 2},
    )
    ray = RayStatus("head", ("slot-0",), "healthy")
    return FleetStatus("rag", plan.hash, True, nodes, instances, router, ray, routers=(router,))
