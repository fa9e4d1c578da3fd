"""What to change where a model does not fit: each suggestion was estimated itself and does fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.kv import states_problem
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import EngineOptions, Memory, Shape
from llmfleet.planner.model.types import Model

LENGTHS = (131072, 65536, 32768, 16384, 8192, 4096, 2048)
MOST_SUGGESTIONS = 3
LARGEST_TP = 16


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`flags`: what to add to the command."""

    flags: str
    memory: Memory


def suggestions(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions) -> tuple[Suggestion, ...]:
    """At most three, the smallest sacrifice first."""
    found: list[Suggestion] = []
    for flags, new_shape, new_options in _changes(model, gpu, shape, options):
        memory = estimate(model, gpu, new_shape, new_options)
        if memory.fits:
            found.append(Suggestion(flags, memory))
        if len(found) == MOST_SUGGESTIONS:
            break
    return tuple(found)


def _changes(
    model: Model, gpu: Gpu, shape: Shape, options: EngineOptions
) -> Iterator[tuple[str, Shape, EngineOptions]]:
    fewer = _fewer(model, gpu, shape, options)
    if fewer:
        yield f"--max-num-seqs {fewer}", shape, replace(options, max_num_seqs=fewer)
    shorter = _shorter(model, gpu, shape, options)
    if shorter:
        yield f"--max-model-len {shorter}", shape, replace(options, max_model_len=shorter)
    if options.kv_cache_dtype in (None, "auto") and _has_fp8_cache(gpu):
        yield "--kv-cache-dtype fp8", shape, replace(options, kv_cache_dtype="fp8")
    wider = _wider(model, shape, options)
    if wider:
        yield f"--tp {wider}", replace(shape, tp=wider), options
    if model.native_quantization is None and options.quantization is None:
        for method in _methods(gpu):
            yield f"--quantization {method}", shape, replace(options, quantization=method)


def _fewer(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions) -> int | None:
    """Sequences, where there are fewer blocks for their recurrent states than CUDA graphs are captured for."""
    settings, cache = resolve(model, gpu, shape, options), estimate(model, gpu, shape, options).kv
    return cache.gpu_blocks if cache and states_problem(settings, cache) else None


def _shorter(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions) -> int | None:
    """The longest usual length that fits."""
    asked = options.max_model_len or model.max_context
    for length in (n for n in LENGTHS if n < asked):
        if estimate(model, gpu, shape, replace(options, max_model_len=length)).fits:
            return length
    return None


def _wider(model: Model, shape: Shape, options: EngineOptions) -> int | None:
    tp = shape.tp * 2
    while tp <= LARGEST_TP:
        if model.tp_problem(tp, options.quantization, ep=shape.ep) is None:
            return tp
        tp *= 2
    return None


def _has_fp8_cache(gpu: Gpu) -> bool:
    return gpu.vendor == "amd" or (gpu.compute_capability or (0, 0)) >= (8, 0)


def _methods(gpu: Gpu) -> tuple[str, ...]:
    capability = gpu.compute_capability or (0, 0)
    if gpu.vendor == "amd" or capability >= (8, 9):
        return "fp8", "gptq-int4"
    return ("gptq-int4",) if capability >= (7, 0) else ()
