"""The memory of a pipeline over unequal GPUs: each stage has its own room, the tightest decides the blocks of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.figures import Budget
from llmfleet.planner.memory import kv, sizing
from llmfleet.planner.memory.overheads import overheads
from llmfleet.planner.memory.settings import Settings, resolve
from llmfleet.planner.memory.types import GIB, EngineOptions, Memory, RankBudget, Shape
from llmfleet.planner.memory.weights import rank_weights
from llmfleet.planner.model.types import Model


@dataclass(frozen=True, slots=True)
class StageRoom:
    """What one stage leaves for its KV cache, and what a block of the pool takes there. Bytes; may be negative."""

    free: int
    per_block: int
    block_size: int

    @property
    def tokens(self) -> int:
        return max(0, self.free) // self.per_block * self.block_size if self.per_block else 0


def stage_room(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions, stage: int) -> StageRoom:
    """Of a stage of that shape if it runs on such GPUs."""
    s = resolve(model, gpu, shape, options)
    pool = kv.pool(s)
    return StageRoom(_free(s, stage), pool.bytes_per_block(stage) if pool else 0, pool.block_size if pool else 0)


def size_chain(model: Model, gpus: Sequence[Gpu], shape: Shape, options: EngineOptions) -> Memory:
    """As `size`, with a GPU for each stage. The cache to ask for is that of the stage with the most layers: the engine
    takes as many blocks on all stages as the one number gives the costliest of them."""
    settings = [resolve(model, gpu, shape, options) for gpu in gpus]
    pool = kv.pool(settings[0])
    free = [_free(s, stage) for stage, s in enumerate(settings)]
    costs = [pool.bytes_per_block(stage) if pool else 1 for stage in range(len(gpus))]
    count = max(0, min(room // cost for room, cost in zip(free, costs, strict=True)))
    ranks = tuple(
        RankBudget(stage * shape.tp + t, stage, t, _budget(s, stage, count * costs[stage]))
        for stage, s in enumerate(settings)
        for t in range(shape.tp)
    )
    tightest = min(ranks, key=lambda rank: rank.budget.slack_gib)
    cache = kv.kv_cache(settings[0], [count * max(costs)] * len(gpus), pool)
    reason = _reason(settings, free, pool)
    return Memory(reason is None, reason, ranks, cache, tightest.budget)


def _free(s: Settings, stage: int) -> int:
    return sizing._free(s, rank_weights(s, stage), overheads(s, stage)) - int(sizing._margin(s) * GIB)


def _budget(s: Settings, stage: int, given: int) -> Budget:
    return sizing._budget(s, rank_weights(s, stage), overheads(s, stage), given)


def _reason(settings: Sequence[Settings], free: Sequence[int], pool: kv.Pool | None) -> str | None:
    for stage, (s, room) in enumerate(zip(settings, free, strict=True)):
        least = pool.least_bytes(stage) if pool else 0
        if room < least:
            need, have = least / GIB, room / GIB
            return (
                f"stage {stage} has {have:.2f} GiB of a {s.gpu.name} for its KV cache, "
                f"one request of {s.max_model_len} tokens needs {need:.2f}"
            )
    return None
