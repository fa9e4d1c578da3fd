"""The limits an engine is started with, and whether they fit the memory of a shape."""

from __future__ import annotations

from math import floor

from llmfleet.planner.candidates.candidate import Settings
from llmfleet.planner.candidates.demand import Demand, answer_tail
from llmfleet.planner.candidates.engines import EngineChoice
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.memory.llamacpp import size_llamacpp
from llmfleet.planner.memory.sizing import size
from llmfleet.planner.memory.types import EngineOptions, Memory, Shape
from llmfleet.planner.plan import Role

STEP = 1024  # contexts are cut down in steps of so many tokens
SLOTS = (16, 8, 4, 2, 1)
# What vLLM starts with on cards of that size (vllm/engine/arg_utils.py:get_batch_defaults); plans say so explicitly.
LARGE_GIB = 70
CONTEXT_WITHOUT_TRAFFIC = 8192


def budget(
    demand: Demand, node_class: NodeClass, engine: EngineChoice, shape: Shape, role: Role
) -> tuple[Memory, Settings]:
    """The memory of a shape with the context its role asks for; `fits` is False with a reason where it does not.

    A context that nobody asked for, the model's own maximum, is cut down to what the KV cache holds.
    """
    if engine.engine == "llama.cpp":
        return _llamacpp(demand, node_class, engine, role)
    wanted, least = contexts(demand, role)
    memory, settings = _vllm(demand, node_class, engine, shape, wanted)
    if memory.fits or least >= wanted or not memory.kv:
        return memory, settings
    held = memory.kv.tokens // STEP * STEP
    if held < least:
        return memory, settings
    return _vllm(demand, node_class, engine, shape, held)


def contexts(demand: Demand, role: Role) -> tuple[int, int]:
    """Tokens of prompt and answer: what is wanted, and the least that will do."""
    service, most = demand.service, demand.model.max_context
    if role == "long":
        wanted = min(most, (service.long_context and service.long_context.max) or service.context or most)
        return wanted, wanted
    if demand.over:
        wanted = min(most, _stepped(demand.over + answer_tail(service)))
        return wanted, wanted
    if service.context:
        return min(service.context, most), min(service.context, most)
    return most, min(most, _stepped(demand.tail_context))


def _vllm(
    demand: Demand, node_class: NodeClass, engine: EngineChoice, shape: Shape, context: int
) -> tuple[Memory, Settings]:
    sequences, _ = batch_limits(node_class)
    memory, settings = _sized(demand, node_class, engine, shape, context, sequences)
    most = memory.kv.most_sequences if memory.kv else sequences
    if 0 < most < sequences:  # with fewer of them there are only more blocks
        return _sized(demand, node_class, engine, shape, context, int(most))
    return memory, settings


def _sized(
    demand: Demand, node_class: NodeClass, engine: EngineChoice, shape: Shape, context: int, sequences: int
) -> tuple[Memory, Settings]:
    service, gpu = demand.service, node_class.gpu
    _, tokens = batch_limits(node_class)
    if demand.model.task != "generate":
        tokens = max(tokens, context)  # a whole prompt is one step: its attention looks both ways
    options = EngineOptions(
        version=engine.version,
        dtype=engine.dtype,
        quantization=engine.quantization,
        max_model_len=context,
        max_num_seqs=sequences,
        max_num_batched_tokens=max(tokens, sequences),
        enforce_eager=service.enforce_eager,
    )
    memory = size(demand.model, gpu, shape, options)
    return memory, Settings(
        max_model_len=context,
        max_num_seqs=sequences,
        max_num_batched_tokens=max(tokens, sequences),
        kv_cache_dtype="auto",
        kv_cache_memory_bytes=memory.kv.available_bytes if memory.kv else 0,
        gpu_memory_utilization=utilization(memory),
    )


def batch_limits(node_class: NodeClass) -> tuple[int, int]:
    """Sequences at once and tokens of one step."""
    gpu = node_class.gpu
    if gpu.vendor == "cpu":
        return 16, 2048
    return (256, 8192) if gpu.visible_gib >= LARGE_GIB else (128, 2048)


def _llamacpp(demand: Demand, node_class: NodeClass, engine: EngineChoice, role: Role) -> tuple[Memory, Settings]:
    """As many slots as fit, each with the whole context."""
    wanted, least = contexts(demand, role)
    context = wanted if demand.service.context or role == "long" else min(wanted, max(least, CONTEXT_WITHOUT_TRAFFIC))
    most = demand.service.max_concurrency or SLOTS[0]
    for slots in [s for s in SLOTS if s <= most]:
        memory = size_llamacpp(demand.model, node_class.gpu, engine.precision, context, slots)
        if memory.fits:
            break
    return memory, Settings(
        max_model_len=context,
        max_num_seqs=slots,
        max_num_batched_tokens=512,
        kv_cache_dtype="f16",
        kv_cache_memory_bytes=memory.kv.available_bytes if memory.kv else 0,
        gpu_memory_utilization=1.0,
    )


def utilization(memory: Memory) -> float:
    """What the engine checks at its start: no more than is planned, with the slack left out."""
    tightest = memory.tightest
    used = 1 - max(0.0, tightest.slack_gib) / tightest.total_gib if tightest.total_gib else 0.9
    return min(0.95, max(0.05, floor(used * 100) / 100))


def _stepped(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
