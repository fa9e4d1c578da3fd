"""llama.cpp's server: weights as a GGUF file, one context cut into slots, no paging."""

from __future__ import annotations

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.errors import InputError
from llmfleet.planner.figures import Budget
from llmfleet.planner.memory.parts import budget
from llmfleet.planner.memory.types import GIB, KvCache, Memory, RankBudget
from llmfleet.planner.model.types import Attention, Latent, Model, State

UBATCH = 512  # tokens computed at once: llama-server's --ubatch-size
CELL_PADDING = 256  # cells of a cache come in such steps: src/llama-kv-cache.cpp


def size_llamacpp(model: Model, gpu: Gpu, precision: str, context: int, slots: int) -> Memory:
    """`context` tokens for each of `slots` requests, 16-bit keys and values. Raises InputError, UnknownNameError."""
    if context < 1 or slots < 1:
        raise InputError(f"a context of {context} tokens and {slots} slots: both are 1 or more")
    cells = -(-context * slots // CELL_PADDING) * CELL_PADDING
    cache = sum(_cache_bytes(layer_cache, cells, slots) for layer in model.layers for layer_cache in layer.caches)
    weights = (
        model.exact_bytes
        if model.exact_bytes and model.native_quantization == precision
        else model.weight_bytes(precision)
    )
    made = budget(gpu.visible_gib * GIB, weights, _compute_bytes(model, cells), _runtime_gib(gpu) * GIB, 0, cache)
    margin = 0.1 if gpu.vendor == "cpu" else 0.3
    reason = None if made.slack_gib >= margin else _reason(made, context, slots, gpu)
    per_token = cache / cells
    held = KvCache(
        per_token, 1, cells, context * slots, float(slots), bytes_per_block=int(per_token), available_bytes=cache
    )
    return Memory(reason is None, reason, (RankBudget(0, 0, 0, made),), held, made)


def _cache_bytes(cache: Attention | Latent | State, cells: int, slots: int) -> int:
    if isinstance(cache, Attention):
        span = min(cells, (cache.window + UBATCH) * slots) if cache.window else cells  # windows keep what they see
        return 2 * cache.kv_heads * (cache.key_dim + cache.value_dim) * (-(-span // CELL_PADDING) * CELL_PADDING)
    if isinstance(cache, Latent):
        return 2 * (cache.rank + cache.rope_dim) * cells
    return 4 * slots * sum(_product(shape) for shape in cache.shapes)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _compute_bytes(model: Model, cells: int) -> float:
    """The compute buffer: 32-bit logits and feed-forward of one micro-batch, and its attention mask and scores."""
    logits = 4 * UBATCH * model.vocab_size
    inner = 4 * UBATCH * (2 * model.intermediate_size + 4 * model.hidden_size)
    return max(logits, inner) + 4 * UBATCH * cells + (0 if model.task == "generate" else inner)


def _runtime_gib(gpu: Gpu) -> float:
    """Context and cuBLAS on a GPU; the process itself on a CPU."""
    return 0.2 if gpu.vendor == "cpu" else 0.6


def _reason(budget: Budget, context: int, slots: int, gpu: Gpu) -> str:
    need = budget.total_gib - budget.slack_gib
    return (
        f"weights of {budget.weights_gib:.1f} GiB and {budget.kv_available_gib:.1f} GiB of KV cache "
        f"for {slots} × {context} tokens need {need:.1f} GiB with buffers; a {gpu.name} has {gpu.visible_gib:.1f}"
    )
