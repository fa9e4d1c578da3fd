"""Speed of one engine with its own defaults: what `llmfleet estimate` prints and what measurements are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.figures import EngineName, Expected
from llmfleet.planner.memory.estimate import estimate as budget
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import EngineOptions, Memory, Shape
from llmfleet.planner.model.storage import DTYPES
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.estimate import figures, seen
from llmfleet.planner.speed.pace import plain
from llmfleet.planner.speed.seen import Seen

# What people give an engine that would not start otherwise: so much of the memory, tokens of a batch, sequences.
TIGHT, SHORT, FEW = 0.95, 2048, 256


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens of a request, and how many of them: `concurrency` clients, or `rate` requests a second."""

    input_len: float
    output_len: float
    concurrency: float | None = None
    rate: float | None = None
    prefix_hit: float = 0.0


def instance_speed(
    model: Model,
    gpu: Gpu,
    shape: Shape,
    options: EngineOptions,
    load: Load,
    precision: str | None = None,
    *,
    memory: Memory | None = None,
    engine: EngineName = "vllm",
) -> Expected:
    """As `instance_seen`, in the figures that are printed."""
    return figures(instance_seen(model, gpu, shape, options, load, precision, memory=memory, engine=engine), gpu)


def instance_seen(
    model: Model,
    gpu: Gpu,
    shape: Shape,
    options: EngineOptions,
    load: Load,
    precision: str | None = None,
    *,
    memory: Memory | None = None,
    engine: EngineName = "vllm",
) -> Seen:
    """`precision` None: the checkpoint's own or that of the options. `memory`: of the same, if it is known already.

    Raises InputError for loads and options that mean nothing, UnknownNameError for an unknown precision.
    """
    if precision is not None and engine == "vllm":
        options = _with_precision(options, model, precision)
    if engine == "vllm":
        memory = memory or budget(model, gpu, shape, options)
        options, memory = _started(model, gpu, shape, options, load, memory)
    s = resolve(model, gpu, shape, options)
    tokens = memory.kv.tokens_at(load.input_len + load.output_len) if memory and memory.kv else None
    return seen(
        model, gpu, shape, precision or options.quantization or model.native_quantization or s.dtype,
        input_len=load.input_len, output_len=load.output_len, concurrency=load.concurrency, request_rate=load.rate,
        prefix_hit=load.prefix_hit, kv_tokens=tokens or None, engine=engine,
        max_num_batched_tokens=s.max_num_batched_tokens, max_num_seqs=s.max_num_seqs,
        version=s.version if engine == "vllm" else None, graphs=not options.enforce_eager,
        kv_bytes_per_element=s.kv_element if engine == "vllm" else 2,
    )  # fmt: skip


def _started(
    model: Model, gpu: Gpu, shape: Shape, options: EngineOptions, load: Load, memory: Memory
) -> tuple[EngineOptions, Memory]:
    """Options that the engine would not start with, as people change them: more of the memory, less context, smaller
    batches. What they still do not fit into stays as it was.
    """
    if memory.fits:
        return options, memory
    length = min(model.max_context, max(SHORT, ceil(load.input_len + load.output_len) + 1))
    tight = replace(options, gpu_memory_utilization=TIGHT, max_model_len=length)
    small = replace(tight, max_num_batched_tokens=options.max_num_batched_tokens or SHORT)
    for changed in (tight, replace(small, max_num_seqs=options.max_num_seqs or FEW)):
        found = budget(model, gpu, shape, changed)
        if found.fits:
            return changed, found
    return options, memory


def _with_precision(options: EngineOptions, model: Model, precision: str) -> EngineOptions:
    """A precision's name as the engine's option: dtypes and quantizations are one list here, two there."""
    name = plain(precision)
    if name == model.native_quantization:
        return options
    if name in DTYPES and model.native_quantization is None:
        return replace(options, dtype=name)
    return replace(options, quantization=name)
