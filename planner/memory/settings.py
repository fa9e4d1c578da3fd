"""Engine options with that vLLM version's own defaults in place of what was left out.

Sources: vllm/engine/arg_utils.py:get_batch_defaults, vllm/config/cache.py, and their history by release.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.errors import InputError
from llmfleet.planner.memory.types import GIB, EngineOptions, Shape
from llmfleet.planner.model.precision import at_precision
from llmfleet.planner.model.storage import DTYPES
from llmfleet.planner.model.types import Model

Version = tuple[int, int, int]
KV_ELEMENT = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "fp8_inc": 1.0, "int8": 1.0, "nvfp4": 0.5625}
DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LATENT: Version = (0, 7, 0)  # DeepSeek's compressed cache
HYBRID_POOL: Version = (0, 10, 0)  # windows and full attention share a pool; before, windows were kept whole
IN_FLIGHT: Version = (0, 26, 0)  # windows keep the tokens of every batch under way (pull request 47728)
STATES_ALIGNED: Version = (0, 28, 0)  # prefix caching of recurrent layers is the default (pull request 50991)
CHUNKED: Version = (0, 5, 4)  # prompts are cut where they may be long
LONG_PROMPT = 32768
V1: Version = (0, 8, 0)  # the engine that profiles batches, not whole prompts
SMALL_SAMPLER: Version = (0, 17, 0)  # logits are no longer sorted: far less scratch memory
GRAPHS_COUNTED: Version = (0, 20, 0)  # the CUDA-graph estimate is taken off the KV cache; logs of 0.20.0 say so
STATES_NEEDED: Version = (0, 20, 0)  # fewer blocks for recurrent states than sequences are an error with CUDA graphs
UTILIZATION_92: Version = (0, 21, 0)


@dataclass(frozen=True, slots=True)
class Settings:
    """Options, complete. `model` is in the precision it is served in; `dtype` is that of unquantized weights."""

    model: Model
    gpu: Gpu
    shape: Shape
    version: Version
    dtype: str
    kv_dtype: str
    kv_element: float
    utilization: float
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int | None
    prefix_caching: bool | None
    graphs: bool

    @property
    def cpu(self) -> bool:
        return self.gpu.vendor == "cpu"

    @property
    def element(self) -> int:
        return 4 if self.dtype == "fp32" else 2


def parse_version(text: str) -> Version:
    """The release part of a PEP 440 version. Raises InputError."""
    found = re.match(r"^v?(?:\d+!)?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:[.\-_+a-z]|$)", text.strip().lower())
    if not found:
        raise InputError(f'"{text}" is no vLLM version', hint="Write it as 0.19.1.")
    return int(found[1]), int(found[2] or 0), int(found[3] or 0)


def newest_version(gpu: Gpu) -> str:
    """Of the releases that the catalogue knows, the newest that runs on this GPU; else the newest of all."""
    from llmfleet.planner.catalog import catalog

    ours = [r for r in catalog().releases if r.engine == "vllm" and gpu.vendor in r.vendors]
    capability = gpu.compute_capability
    able = [r for r in ours if not capability or not r.min_capability or capability >= r.min_capability]
    return (able or ours)[0].version if ours else "0.33.0"


def resolve(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions) -> Settings:
    """Raises InputError for impossible values, UnknownNameError for names nobody knows."""
    _positive("pp", shape.pp)
    version = parse_version(options.version or newest_version(gpu))
    served, dtype = _precision(model, gpu, options)
    length = _positive("max_model_len", options.max_model_len) or model.max_context
    tokens, seqs = _batch(model, gpu, shape, version, length)
    seqs = _positive("max_num_seqs", options.max_num_seqs) or seqs
    tokens = _positive("max_num_batched_tokens", options.max_num_batched_tokens) or tokens
    kv_dtype, element = _kv(options.kv_cache_dtype, dtype)
    return Settings(
        model=served, gpu=gpu, shape=shape, version=version, dtype=dtype, kv_dtype=kv_dtype, kv_element=element,
        utilization=_utilization(options.gpu_memory_utilization, version),
        max_model_len=length,
        max_num_seqs=min(seqs, tokens),
        max_num_batched_tokens=tokens,
        block_size=_positive("block_size", options.block_size),
        prefix_caching=options.enable_prefix_caching,
        graphs=not options.enforce_eager and gpu.vendor != "cpu" and not model.encoder_only,
    )  # fmt: skip


def _precision(model: Model, gpu: Gpu, options: EngineOptions) -> tuple[Model, str]:
    served, dtype = (
        at_precision(model, options.quantization) if options.quantization else (model, _auto_dtype(model, gpu))
    )
    if options.dtype and options.dtype != "auto":
        if options.dtype not in DTYPES:
            raise InputError(f'"{options.dtype}" is no dtype', hint=f"One of {', '.join(sorted(DTYPES))}.")
        dtype = DTYPES[options.dtype]
    return (_without_towers(served) if options.language_model_only else served), dtype


@lru_cache(maxsize=64)
def _without_towers(model: Model) -> Model:
    return replace(model, towers=(), image_tokens=0, deepstack=0)


def _auto_dtype(model: Model, gpu: Gpu) -> str:
    """What `--dtype auto` makes of the checkpoint's dtype: no fp32, and no bf16 where the GPU lacks it."""
    old = gpu.vendor == "nvidia" and (gpu.compute_capability or (9, 0)) < (8, 0)
    if model.native_dtype == "fp32" and not model.encoder_only:
        return "fp16" if old else "bf16"
    if model.native_dtype == "fp32":
        return "fp16"
    return "fp16" if old else model.native_dtype


def _batch(model: Model, gpu: Gpu, shape: Shape, version: Version, length: int) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs of the API server."""
    if gpu.vendor == "cpu":
        return 2048 * shape.gpus, 128 * shape.gpus
    if version < V1:  # whole prompts, or pieces where they may be long
        piece = 512 if version < LATENT else 2048
        return (piece if length > LONG_PROMPT and version >= CHUNKED else max(length, 2048)), 256
    memory, name = gpu.visible_gib, gpu.name.lower()
    if version >= (0, 28, 0) and memory >= 160:
        tokens, seqs = 16384, 1024
    elif memory >= 70 and not name.startswith(("a100", "gb10")):  # NVML does not tell a GB10's memory: as if small
        tokens, seqs = 8192, 1024
    else:
        tokens, seqs = 2048, 256
    return (max(tokens, length) if model.encoder_only else tokens), seqs


def _kv(name: str | None, dtype: str) -> tuple[str, float]:
    if name is None or name == "auto":
        return "auto", 4.0 if dtype == "fp32" else 2.0
    if name in DTYPES:
        return name, 4.0 if DTYPES[name] == "fp32" else 2.0
    if name not in KV_ELEMENT:
        raise InputError(
            f'"{name}" is no KV cache dtype', hint=f"One of auto, bfloat16, float16, {', '.join(KV_ELEMENT)}."
        )
    return name, KV_ELEMENT[name]


def _utilization(given: float | None, version: Version) -> float:
    if given is None:
        return 0.92 if version >= UTILIZATION_92 else 0.9
    if not 0 < given <= 1:
        raise InputError(f"gpu_memory_utilization is {given:g}; a number above 0 and up to 1 is needed")
    return given


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{name} is {value}; a whole number of 1 or more is needed")
    return value


def visible_bytes(gpu: Gpu) -> int:
    return int(gpu.visible_gib * GIB)
