"""From what was measured to calibration.yaml."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TypeVar

import yaml

from llmfleet.launch.bench.figures import Figures
from llmfleet.launch.bench.measure import THE_SLO, Knee
from llmfleet.launch.bench.prompts import Shape
from llmfleet.launch.bench.startup import Startup
from llmfleet.launch.record.state import write_atomically
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Instance
from llmfleet.planner.speed.measurements import CalibrationFile, Measurement, as_document, read_calibration
from llmfleet.planner.speed.throughputs import ThroughputTable

PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16"}
HEAD = "# Written by llmfleet bench. llmfleet plan reads it; see docs/calibration.md.\n"
Entry = TypeVar("Entry", Measurement, ThroughputTable)


def measurement(
    inventory: Inventory, instance: Instance, got: Figures, startup: Startup | None = None
) -> Measurement:
    generates = instance.task == "generate"
    return Measurement(
        gpu=_gpu(inventory, instance),
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
        **asdict(startup or Startup()),
        source=_source(instance),
        date=date.today().isoformat(),
    )


def _gpu(inventory: Inventory, instance: Instance) -> str:
    return parse_gpus(inventory.node(instance.nodes[0]).gpus or "").name


def _source(instance: Instance) -> str:
    return f"llmfleet bench, {instance.id}"


def throughput(inventory: Inventory, instance: Instance, shape: Shape, knee: Knee) -> ThroughputTable | None:
    """What the instance takes inside the SLO, at those mean lengths; None where nothing bounded it but the client."""
    if not knee.rate_rps or knee.bounded_by != THE_SLO or instance.task != "generate":
        return None
    return ThroughputTable(
        gpu=_gpu(inventory, instance),
        model=instance.model,
        tp=instance.tp,
        pp=instance.pp,
        input=(round(shape.input_mean),),
        output=(round(shape.output_mean),),
        requests_per_s=((float(f"{knee.rate_rps:.4g}"),),),
        source=_source(instance),
    )


def write_calibration(path: Path, made: Sequence[Measurement], tables: Sequence[ThroughputTable] = ()) -> int:
    """Adds to the file; what it has of the same instance, and of the same lengths, is replaced.

    Returns how many entries it holds then. Raises InventoryError for a file that is none.
    """
    known = read_calibration(path.read_bytes(), str(path)) if path.is_file() else CalibrationFile()
    measurements, throughputs = _joined(known.measurements, made), _joined(known.throughputs, tables)
    text = HEAD + yaml.safe_dump(as_document(measurements, throughputs), sort_keys=False, allow_unicode=True)
    write_atomically(path, text.encode())
    return len(measurements) + len(throughputs)


def _joined(known: Iterable[Entry], made: Sequence[Entry]) -> list[Entry]:
    new: set[Hashable] = {_of(one) for one in made}
    kept = [one for one in known if _of(one) not in new]
    return kept + list(made)


def _of(one: Measurement | ThroughputTable) -> Hashable:
    return (one.source, one.input, one.output) if isinstance(one, ThroughputTable) else one.source
