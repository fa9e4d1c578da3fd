"""A KV cache in bytes that surely fits: a plan's --kv-cache-memory-bytes, so that nothing depends on profiling."""

from __future__ import annotations

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.figures import Budget
from llmfleet.planner.memory import kv
from llmfleet.planner.memory.overheads import Overheads, overheads
from llmfleet.planner.memory.parts import budget
from llmfleet.planner.memory.settings import Settings, resolve, visible_bytes
from llmfleet.planner.memory.types import GIB, EngineOptions, Memory, RankBudget, Shape
from llmfleet.planner.memory.weights import rank_weights
from llmfleet.planner.model.types import Model

CPU_MARGIN = 0.1  # GiB
LEAST_MARGIN, MARGIN_PART = 0.5, 0.02  # GiB, and part of the GPU
CPU_CACHE_PART = 0.75  # of what a CPU slot has left: the rest is for the batch at work


def size(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions, *, margin_gib: float | None = None) -> Memory:
    """`kv.available_bytes` is the cache to ask for; the budget's slack is what stays free, the margin included.

    Whether it fits counts one request of full length. Raises InputError for options that no engine takes.
    """
    s = resolve(model, gpu, shape, options)
    stages = range(shape.pp)
    over = [overheads(s, stage) for stage in stages]
    weights = [rank_weights(s, stage) for stage in stages]
    margin = int((_margin(s) if margin_gib is None else margin_gib) * GIB)
    free = [_free(s, w, o) - margin for w, o in zip(weights, over, strict=True)]
    pool = kv.pool(s)
    given = _given(s, free, pool)
    ranks = tuple(
        RankBudget(stage * shape.tp + t, stage, t, _budget(s, weights[stage], over[stage], given[stage]))
        for stage in stages
        for t in range(shape.tp)
    )
    tightest = min(ranks, key=lambda rank: rank.budget.slack_gib)
    cache = kv.kv_cache(s, given, pool)
    reason = s.model.tp_problem(shape.tp, ep=shape.ep) or _reason(s, free, pool, tightest.budget, margin)
    reason = reason or kv.states_problem(s, cache)
    return Memory(reason is None, reason, ranks, cache, tightest.budget)


def baseline(s: Settings) -> int:
    """Taken before the engine's first snapshot: the CUDA context, and NCCL's buffers where ranks talk (from logs)."""
    if s.cpu:
        return 0
    if s.shape.gpus == 1:
        return int((0.5 if s.gpu.memory_mib / 1024 > 40 else 0.3) * GIB)
    hopper = (s.gpu.compute_capability or (0, 0)) >= (9, 0) and s.gpu.link_gbs > 0
    return int((1.55 if hopper else 1.0) * GIB)


def after(s: Settings) -> int:
    """Allocated after the cache: block tables, attention workspaces."""
    return 0 if s.cpu else int((0.4 if s.kv_element < 2 else 0.1) * GIB)


def _free(s: Settings, weights: int, over: Overheads) -> int:
    fixed = weights + over.activation + over.non_torch + over.persistent + over.graphs
    return visible_bytes(s.gpu) - baseline(s) - after(s) - fixed


def _margin(s: Settings) -> float:
    return CPU_MARGIN if s.cpu else max(LEAST_MARGIN, MARGIN_PART * s.gpu.visible_gib)


def _given(s: Settings, free: list[int], pool: kv.Pool | None) -> list[int]:
    """One size for all ranks (the flag is one number): as many blocks as the tightest stage holds."""
    if pool is None:
        return [0] * len(free)
    part = CPU_CACHE_PART if s.cpu else 1
    costs = [pool.bytes_per_block(stage) for stage in range(len(free))]
    count = max(0, min(int(size * part) // cost for size, cost in zip(free, costs, strict=True)))
    wanted = count * max(costs)
    return [wanted if min(free) >= wanted else max(0, min(free))] * len(free)


def _budget(s: Settings, weights: int, over: Overheads, given: int) -> Budget:
    total, buffers = visible_bytes(s.gpu), over.non_torch + baseline(s) + after(s)
    return budget(total, weights, over.activation + over.persistent, buffers, over.graphs, given)


def _reason(s: Settings, free: list[int], pool: kv.Pool | None, tight: Budget, margin: int) -> str | None:
    for stage, size in enumerate(free):
        if size < 0:
            other = tight.activation_gib + tight.non_torch_gib + tight.cuda_graph_gib + margin / GIB
            return (
                f"weights of {tight.weights_gib:.1f} GiB and {other:.1f} GiB beside them "
                f"exceed the {tight.total_gib:.1f} GiB of a {s.gpu.name}"
            )
        if pool and size < pool.least_bytes(stage):
            need = pool.least_bytes(stage) / GIB
            return (
                f"one request of {s.max_model_len} tokens needs {need:.2f} GiB of KV cache, "
                f"{size / GIB:.2f} GiB are left of a {s.gpu.name}"
            )
    return None
