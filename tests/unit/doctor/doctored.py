"""A node in good health, to be made ill in one respect at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmfleet.launch.doctor.view import View
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import DiskFacts, GpuUser, InterfaceFacts, NodeFacts, WeightsFacts
from llmfleet.launch.nodes.gpu_tools import GpuFacts
from llmfleet.planner.inventory.model import Node, Runtime
from llmfleet.planner.plan import Budget, Expected, Instance

ROOT = "/home/ops/.llmfleet/rag/a800-0"
ADDRESS = "10.0.1.10"
MODEL = "/models/chat"


def gpu(index: int, **changes: Any) -> GpuFacts:
    base = GpuFacts(index, "NVIDIA A800-SXM4-80GB", 81920, 4, "580.95.05", f"GPU-{index}")
    return replace(base, **changes)


def facts(**changes: Any) -> NodeFacts:
    base = NodeFacts(
        hostname="a800-0", kernel="6.8", machine="x86_64", python="3.11.7", cpus=64, memory_total=512 << 30,
        memory_available=500 << 30, shm=256 << 30, epoch=0.0, user="ops", uid=1000, home="/home/ops", interface="eth0",
        disks={ROOT: DiskFacts(1 << 40, 900 << 30)},
        weights={MODEL: WeightsFacts("folder", 145 << 30, True)},
        gpus=(gpu(0), gpu(1)),
        engine_python="3.12.3",
        versions={"vllm": "0.33.0", "ray": "2.60.0", "nvidia-cuda-runtime": "13.0.48"},
        envoy="1.40.0",
        shm_free=256 << 30,
        nofile=(1024, 524288),
        binds=True,
        routes={},
        interfaces={"lo": InterfaceFacts(65536, None), "eth0": InterfaceFacts(1500, 25000)},
    )  # fmt: skip
    return replace(base, **changes)


def instance(**changes: Any) -> Instance:
    base = Instance(
        id="chat-a800-0-0", service="chat", model="m", task="generate", engine="vllm", engine_version="0.33.0",
        image=None, nodes=("a800-0",), gpus={"a800-0": (0, 1)}, tp=2, pp=1, pp_partition=None, dtype="bf16",
        quantization=None, kv_cache_dtype="auto", max_model_len=8192, max_num_seqs=64, max_num_batched_tokens=8192,
        kv_cache_memory_bytes=1 << 34, gpu_memory_utilization=0.9, port=8100,
        budget=Budget(79.0, 40, 2, 1, 1, 30, 5.0), expected=Expected(1, 1, 1, 1, (1, 1), (1, 1)), weight=100,
        max_concurrency=8, reason="", weights_path=MODEL,
    )  # fmt: skip
    return replace(base, **changes)


def node(gpus: str | None = "2 x A800-80G", **runtime: Any) -> Node:
    return Node(name="a800-0", host=ADDRESS, gpus=gpus, runtime=Runtime(python="/opt/vllm/bin/python", **runtime))


def view(changes: Mapping[str, Any] | None = None, **others: Any) -> View:
    """`changes` are of the facts."""
    base = View(node(), facts(**(changes or {})), NodeFolder(ROOT), ADDRESS, (instance(),), frozenset({8100}))
    return replace(base, **others)


def user(gpu: str = "GPU-1", **changes: Any) -> GpuUser:
    return replace(GpuUser(gpu, 4711, 61200, "python", "anna"), **changes)
