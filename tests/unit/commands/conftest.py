from __future__ import annotations

import pytest

from llmfleet.planner.plan import Budget, Expected, Instance


@pytest.fixture
def chat() -> Instance:
    """A 72B model on half of an A800 node."""
    return Instance(
        id="chat-a800-0-1",
        service="chat",
        model="Qwen/Qwen1.5-72B-Chat",
        task="generate",
        engine="vllm",
        engine_version="0.33.0",
        image=None,
        nodes=("a800-0",),
        gpus={"a800-0": (4, 5, 6, 7)},
        tp=4,
        pp=1,
        pp_partition=None,
        dtype="bf16",
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=16384,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        kv_cache_memory_bytes=38_224_000_000,
        gpu_memory_utilization=0.93,
        port=8101,
        budget=Budget(79.1, 34.1, 2.2, 1.9, 0.9, 35.6, 4.4),
        expected=Expected(500, 40, 1000, 3, (400, 600), (30, 50)),
        weight=100,
        max_concurrency=118,
        reason="",
        weights_path="/models/Qwen/Qwen1.5-72B-Chat",
    )
