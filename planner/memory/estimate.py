"""What vLLM will print when started by utilization: a budget for each rank, the KV cache, whether it starts at all."""

from __future__ import annotations

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.figures import Budget
from llmfleet.planner.memory import kv
from llmfleet.planner.memory.overheads import Overheads, counted_graphs, overheads
from llmfleet.planner.memory.parts import budget
from llmfleet.planner.memory.settings import Settings, resolve, visible_bytes
from llmfleet.planner.memory.types import GIB, EngineOptions, Memory, RankBudget, Shape
from llmfleet.planner.memory.weights import rank_weights
from llmfleet.planner.model.types import Model


def estimate(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions) -> Memory:
    """Raises InputError for options that no engine takes; a model that does not fit is a Memory that says why."""
    s = resolve(model, gpu, shape, options)
    stages = range(shape.pp)
    weights = [rank_weights(s, stage) for stage in stages]
    over = [overheads(s, stage) for stage in stages]
    allowed = int(visible_bytes(gpu) * s.utilization)
    available = [options.kv_cache_memory_bytes or allowed - used(s, w, o) for w, o in zip(weights, over, strict=True)]
    pool = kv.pool(s)
    if pool is None:
        available = [min(0, size) for size in available]
    ranks = tuple(
        RankBudget(stage * shape.tp + t, stage, t, _budget(s, weights[stage], over[stage], available[stage]))
        for stage in stages
        for t in range(shape.tp)
    )
    tightest = min(ranks, key=lambda rank: rank.budget.kv_available_gib)
    cache = kv.kv_cache(s, available, pool)
    reason = s.model.tp_problem(shape.tp, ep=shape.ep) or _reason(s, available, pool, tightest.budget)
    reason = reason or kv.states_problem(s, cache)
    return Memory(reason is None, reason, ranks, cache, tightest.budget)


def used(s: Settings, weights: int, over: Overheads) -> int:
    """Bytes that vLLM takes off its budget before the KV cache."""
    return weights + over.activation + over.non_torch + over.persistent + counted_graphs(s, over.graphs)


def _budget(s: Settings, weights: int, over: Overheads, available: int) -> Budget:
    total, activation = visible_bytes(s.gpu), over.activation + over.persistent
    return budget(total, weights, activation, over.non_torch, over.graphs, max(0, available))


def _reason(s: Settings, available: list[int], pool: kv.Pool | None, tight: Budget) -> str | None:
    for stage, size in enumerate(available):
        if size < 0:
            return _too_large(s, tight, stage)
        if pool and size < pool.least_bytes(stage):
            need, have = pool.least_bytes(stage) / GIB, size / GIB
            return (
                f"one request of {s.max_model_len} tokens needs {need:.2f} GiB of KV cache, "
                f"{have:.2f} GiB are left{_where(s, stage)}"
            )
    return None


def _too_large(s: Settings, tight: Budget, stage: int) -> str:
    counted = counted_graphs(s, 1)
    other = tight.activation_gib + tight.non_torch_gib + counted * tight.cuda_graph_gib
    limit = tight.total_gib * s.utilization
    return (
        f"weights of {tight.weights_gib:.1f} GiB and {other:.1f} GiB of activations, buffers"
        f"{' and CUDA graphs' if counted else ''} exceed "
        f"{limit:.1f} of {tight.total_gib:.1f} GiB{_where(s, stage)}"
    )


def _where(s: Settings, stage: int) -> str:
    return f" on stage {stage}" if s.shape.pp > 1 else ""
