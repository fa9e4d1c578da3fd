"""From what was measured to calibration.yaml, and how far the estimate was off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import yaml

from llmfleet.launch.bench.client import Address
from llmfleet.launch.bench.figures import Figures
from llmfleet.launch.record.state import write_atomically
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.errors import FleetError
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Instance
from llmfleet.planner.speed.instance import Load, instance_seen
from llmfleet.planner.speed.measurements import Measurement, as_document, read_measurements
from llmfleet.planner.speed.seen import Seen

PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16"}
ACCURACY = "accuracy.jsonl"  # beside the plan: past comparisons
APART = 0.15  # an estimate that is further off is worth a warning
HEAD = "# Written by llmfleet bench. llmfleet plan reads it; see docs/calibration.md.\n"
KV_BLOCKS = re.compile(r'^vllm:cache_config_info\{.*\bnum_gpu_blocks="(\d+)"', re.MULTILINE)


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


def measurement(inventory: Inventory, instance: Instance, got: Figures) -> Measurement:
    gpus = inventory.node(instance.nodes[0]).gpus or ""
    generates = instance.task == "generate"
    return Measurement(
        gpu=parse_gpus(gpus).name,
        model=instance.model,
        precision=instance.quantization or PRECISIONS.get(instance.dtype, instance.dtype),
        tp=instance.tp,
        pp=instance.pp,
        engine=instance.engine,
        engine_version=instance.engine_version,
        input_len=max(1.0, got.prompt_tokens),
        output_len=got.answer_tokens if generates else 0.0,
        concurrency=float(got.users) if got.users is not None else None,
        request_rate=got.rate_rps if got.users is None else None,
        prefix_hit=min(0.99, got.prefix_hit_rate or 0.0),
        max_num_seqs=instance.max_num_seqs,
        max_num_batched_tokens=instance.max_num_batched_tokens,
        ttft_ms=got.ttft_ms.get("mean"),
        tpot_ms=got.tpot_ms.get("mean") if generates else None,
        output_tokens_per_s=(got.output_tokens_per_s or None) if generates else None,
        source=f"llmfleet bench, {instance.id}",
        date=date.today().isoformat(),
    )


def compare(
    one: Measurement, instance: Instance, model: Model, catalog: Catalog, kv_blocks: int | None = None
) -> Compared | None:
    """`kv_blocks`: what the running engine says. None where nothing can be estimated of such hardware."""
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
        measured_kv_blocks=kv_blocks,
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


def write_calibration(path: Path, made: Sequence[Measurement]) -> int:
    """Adds to the file; what it has of the same instance is replaced. Returns how many it holds then."""
    known = list(read_measurements(path.read_bytes(), str(path))) if path.is_file() else []
    sources = {one.source for one in made}
    kept = [*(one for one in known if one.source not in sources), *made]
    text = HEAD + yaml.safe_dump(as_document(kept), sort_keys=False, allow_unicode=True)
    write_atomically(path, text.encode())
    return len(kept)


def kv_blocks(where: Address) -> int | None:
    """Blocks of the KV cache as the running engine says in its metrics; None where it says nothing."""
    import httpx

    try:
        answer = httpx.get(f"{where.url}/metrics", timeout=5.0, trust_env=False)
    except httpx.HTTPError:
        return None
    found = KV_BLOCKS.search(answer.text) if answer.status_code == 200 else None
    return int(found[1]) if found else None
