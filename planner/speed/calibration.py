"""Measured figures win over estimated ones: how much longer things took than the roofline says, by class of GPU.

Turns measurements into paces (pace.py), each with the estimate of just that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog.types import Gpu, Pace
from llmfleet.planner.errors import FleetError, InputError
from llmfleet.planner.figures import Expected
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.instance import Load, instance_speed
from llmfleet.planner.speed.pace import plain

if TYPE_CHECKING:
    from llmfleet.planner.speed.measurements import Measurement

# A measurement that is so much faster or slower than the hardware explains is a mistake in its units or its labels.
FASTEST, SLOWEST = 0.2, 20.0
# Waiting is not work: a first token that takes so much longer than on an idle instance says little of prompts' speed.
QUEUED = 2.0
ModelOf = Callable[[str], Model | None]


def calibrated(catalog: Catalog, measurements: Iterable[Measurement], model_of: ModelOf | None = None) -> Catalog:
    """The catalogue with the paces of its GPUs. `model_of` knows models that the catalogue may not.

    Measurements of models that nobody knows still count for those models' own instances once they are known.
    Raises UnknownNameError for GPUs and precisions that nobody knows, InputError for figures that cannot be.
    """
    by_gpu: dict[str, list[Pace]] = {}
    for index, one in enumerate(measurements):
        model = (model_of and model_of(one.model)) or catalog.model(one.model)
        gpu = catalog.gpu(one.gpu)
        if model is not None:
            by_gpu.setdefault(gpu.name, []).append(_pace(f"measurements[{index}]", one, model, gpu))
    gpus = [replace(catalog.gpu(name), paces=tuple(paces)) for name, paces in by_gpu.items()]
    return catalog.with_gpus(gpus)


def _pace(where: str, one: Measurement, model: Model, gpu: Gpu) -> Pace:
    try:
        estimate = _estimate(one, model, gpu)
        idle = _estimate(one.model_copy(update={"concurrency": 1.0, "request_rate": None}), model, gpu)
    except FleetError as error:
        raise InputError(f"{where} ({one.model} on {one.gpu}): {error.message}", hint=error.hint) from None
    decode = _decode(where, one, estimate)
    first = _ratio(where, "ttft_ms", one.ttft_ms, estimate.ttft_ms)
    queued = estimate.ttft_ms > QUEUED * idle.ttft_ms
    prefill = decode if first is None or (queued and decode is not None) else first
    return Pace(one.engine, one.model, plain(one.precision), one.tp, one.pp, decode or prefill or 1.0, prefill or 1.0)


def _decode(where: str, one: Measurement, estimate: Expected) -> float | None:
    by_token = _ratio(where, "tpot_ms", one.tpot_ms, estimate.tpot_ms)
    if by_token is not None or one.concurrency is None:
        return by_token  # at a rate that it keeps up with, the tokens a second are the clients' doing
    return _ratio(where, "output_tokens_per_s", estimate.output_tokens_per_s, one.output_tokens_per_s)


def _ratio(where: str, name: str, measured: float | None, estimated: float | None) -> float | None:
    if not measured or not estimated:
        return None
    ratio = measured / estimated
    if FASTEST <= ratio <= SLOWEST:
        return ratio
    way = "faster" if ratio < 1 else "slower"
    times = 1 / ratio if ratio < 1 else ratio
    raise InputError(
        f"{where}: {name} is {times:.0f} times {way} than this hardware explains",
        hint="Check its unit, the GPU, the precision and the number of GPUs; or leave the measurement out.",
    )


def _estimate(one: Measurement, model: Model, gpu: Gpu) -> Expected:
    options = EngineOptions(
        version=one.engine_version if one.engine == "vllm" else None,
        max_num_seqs=one.max_num_seqs,
        max_num_batched_tokens=one.max_num_batched_tokens,
    )
    load = Load(one.input_len, one.output_len, one.concurrency, one.request_rate, one.prefix_hit)
    gpu = replace(gpu, paces=())
    return instance_speed(model, gpu, Shape(one.tp, one.pp), options, load, one.precision, engine=one.engine)
