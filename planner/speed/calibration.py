"""Measured figures win over estimated ones: how much longer things took than the roofline says, by class of GPU.

Turns measurements into paces (pace.py), each with the estimate of just that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog.types import Gpu, Pace
from llmfleet.planner.errors import FleetError, InputError
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.instance import Load, instance_seen
from llmfleet.planner.speed.pace import plain
from llmfleet.planner.speed.seen import Seen

if TYPE_CHECKING:
    from llmfleet.planner.speed.measurements import Measurement

# A measurement that is so much faster or slower than the hardware explains is a mistake in its units or its labels.
FASTEST, SLOWEST = 0.2, 20.0
TURNS, NEAR = 12, 0.005  # until both factors move by less than that
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
    """The factors with which the estimate of that run comes out as it was measured. Both are found together: decode
    steps carry prompts, and prompts wait for steps.
    """
    pace = Pace(one.engine, one.model, plain(one.precision), one.tp, one.pp, 1.0, 1.0)
    try:
        estimate = _estimate(one, model, replace(gpu, paces=()))
        _believable(where, one, estimate)
        told = one if _tells_of_prompts(one, model, gpu, estimate) else one.model_copy(update={"ttft_ms": None})
        for _ in range(TURNS):
            decode, prefill = _left(told, estimate)
            pace = replace(pace, decode=_held(pace.decode * decode), prefill=_held(pace.prefill * prefill))
            if max(abs(log(decode)), abs(log(prefill))) < NEAR:
                break
            estimate = _estimate(one, model, replace(gpu, paces=(pace,)))
    except FleetError as error:
        raise InputError(f"{where} ({one.model} on {one.gpu}): {error.message}", hint=error.hint) from None
    return pace


def _tells_of_prompts(one: Measurement, model: Model, gpu: Gpu, estimate: Seen) -> bool:
    """False for a first token that mostly waited, where something else tells of the engine."""
    idle = one.model_copy(update={"concurrency": 1.0, "request_rate": None})
    queued = estimate.ttft_mean_s > QUEUED * _estimate(idle, model, replace(gpu, paces=())).ttft_mean_s
    return not queued or _decode_left(one, estimate) is None


def _left(one: Measurement, estimate: Seen) -> tuple[float, float]:
    """Measured over estimated time, of decode steps and of prompts: each for the other where only one is known."""
    decode = _decode_left(one, estimate)
    prefill = _ratio(one.ttft_ms, 1000 * estimate.ttft_mean_s)
    return decode or prefill or 1.0, prefill or decode or 1.0


def _decode_left(one: Measurement, estimate: Seen) -> float | None:
    by_token = _ratio(one.tpot_ms, 1000 * estimate.token_s)
    if by_token is not None or one.concurrency is None:
        return by_token  # at a rate that it keeps up with, the tokens a second are the clients' doing
    return _ratio(estimate.tokens_per_s, one.output_tokens_per_s)


def _ratio(measured: float | None, estimated: float | None) -> float | None:
    return measured / estimated if measured and estimated else None


def _held(factor: float) -> float:
    return min(SLOWEST, max(FASTEST, factor))


def _believable(where: str, one: Measurement, estimate: Seen) -> None:
    """Raises InputError for a figure that hardware does not explain."""
    by_name = {
        "ttft_ms": _ratio(one.ttft_ms, 1000 * estimate.ttft_mean_s),
        "tpot_ms": _ratio(one.tpot_ms, 1000 * estimate.token_s),
        "output_tokens_per_s": _ratio(estimate.tokens_per_s, one.output_tokens_per_s) if one.concurrency else None,
    }
    for name, ratio in by_name.items():
        if ratio is None or FASTEST <= ratio <= SLOWEST:
            continue
        way, times = ("faster", 1 / ratio) if ratio < 1 else ("slower", ratio)
        raise InputError(
            f"{where}: {name} is {times:.0f} times {way} than this hardware explains",
            hint="Check its unit, the GPU, the precision and the number of GPUs; or leave the measurement out.",
        )


def _estimate(one: Measurement, model: Model, gpu: Gpu) -> Seen:
    options = EngineOptions(
        version=one.engine_version if one.engine == "vllm" else None,
        max_num_seqs=one.max_num_seqs,
        max_num_batched_tokens=one.max_num_batched_tokens,
    )
    load = Load(one.input_len, one.output_len, one.concurrency, one.request_rate, one.prefix_hit)
    return instance_seen(model, gpu, Shape(one.tp, one.pp), options, load, one.precision, engine=one.engine)
