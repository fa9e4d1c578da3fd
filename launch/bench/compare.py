"""How far an estimate was off, for exactly the load that was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.errors import FleetError
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Instance
from llmfleet.planner.speed.instance import Load, instance_seen
from llmfleet.planner.speed.measurements import Measurement
from llmfleet.planner.speed.pace import APART
from llmfleet.planner.speed.seen import Seen

ACCURACY = "accuracy.jsonl"  # beside the plan: past comparisons


@dataclass(frozen=True, slots=True)
class Compared:
    """The estimate for exactly the load that was measured, in ms. Errors: (estimated - measured) / measured.

    KV blocks are arithmetic, from the bytes that the plan gives the engine: they should be equal. None: not known.
    """

    instance: str
    gpu: str
    source: str
    estimated_ttft_ms: float
    measured_ttft_ms: float
    estimated_tpot_ms: float | None
    measured_tpot_ms: float | None
    planned_kv_blocks: int | None = None
    measured_kv_blocks: int | None = None
    planned_weights_gib: float | None = None  # of one GPU
    measured_weights_gib: float | None = None

    @property
    def ttft_error(self) -> float:
        return self.estimated_ttft_ms / self.measured_ttft_ms - 1 if self.measured_ttft_ms else 0.0

    @property
    def tpot_error(self) -> float | None:
        if not self.estimated_tpot_ms or not self.measured_tpot_ms:
            return None
        return self.estimated_tpot_ms / self.measured_tpot_ms - 1

    @property
    def apart(self) -> bool:
        """By the TPOT, which says how fast the engine is; by the TTFT where nothing is decoded."""
        error = self.tpot_error if self.tpot_error is not None else self.ttft_error
        return abs(error) > APART


def compare(one: Measurement, instance: Instance, model: Model, catalog: Catalog) -> Compared | None:
    """None where nothing can be estimated of such hardware."""
    try:
        seen = _estimate(one, instance, model, catalog)
        planned_blocks = _planned_blocks(one, instance, model, catalog) if instance.engine == "vllm" else None
    except FleetError:
        return None
    return Compared(
        instance=instance.id,
        gpu=one.gpu,
        source="calibrated" if catalog.gpu(one.gpu).paces else "roofline",
        estimated_ttft_ms=1000 * seen.ttft_mean_s,
        measured_ttft_ms=one.ttft_ms or 0.0,
        estimated_tpot_ms=1000 * seen.token_s if one.output_len else None,
        measured_tpot_ms=one.tpot_ms,
        planned_kv_blocks=planned_blocks,
        measured_kv_blocks=one.kv_blocks,
        planned_weights_gib=instance.budget.weights_gib if one.weights_gib else None,
        measured_weights_gib=one.weights_gib,
    )


def _estimate(one: Measurement, instance: Instance, model: Model, catalog: Catalog) -> Seen:
    load = Load(one.input_len, one.output_len, one.concurrency, one.request_rate, one.prefix_hit)
    gpu, shape = catalog.gpu(one.gpu), _shape(one, instance)
    return instance_seen(model, gpu, shape, _options(instance), load, one.precision, engine=one.engine)


def _planned_blocks(one: Measurement, instance: Instance, model: Model, catalog: Catalog) -> int | None:
    """None for engines without a KV cache."""
    options = replace(
        _options(instance),
        dtype=instance.dtype,
        quantization=instance.quantization,
        kv_cache_dtype=instance.kv_cache_dtype,
    )
    kv = estimate(model, catalog.gpu(one.gpu), _shape(one, instance), options).kv
    return kv.gpu_blocks if kv else None


def _shape(one: Measurement, instance: Instance) -> Shape:
    return Shape(one.tp, one.pp, pp_partition=instance.pp_partition)


def _options(instance: Instance) -> EngineOptions:
    return EngineOptions(
        version=instance.engine_version if instance.engine == "vllm" else None,
        max_model_len=instance.max_model_len,
        max_num_seqs=instance.max_num_seqs,
        max_num_batched_tokens=instance.max_num_batched_tokens,
        kv_cache_memory_bytes=instance.kv_cache_memory_bytes or None,
    )
