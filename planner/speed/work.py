"""What a model asks of the hardware: arithmetic, weight bytes and cache bytes, before anything is cut over GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from llmfleet.planner.model.types import (
    Attention,
    Cache,
    Latent,
    Layer,
    Model,
    State,
    Weight,
    distinct_layers,
    weight_bytes,
)

NO_LIMIT = 1 << 40


# What sparse attention picks out of the context for each token (DeepSeek-V3.2's index_topk), and its indexer's heads.
PICKED = 2048
INDEXER_FLOPS = 2.0 * 64 * 128
# Attention to latents works on so many heads of a GPU at least (a tensor-core tile of FlashMLA), used or not.
LATENT_HEADS = 64


@dataclass(frozen=True, slots=True)
class Experts:
    """All routed experts of a kind: a token works with `active` of `count`. `flops` per token, by weight format."""

    bytes: float
    count: int
    active: int
    flops: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Context:
    """What attention costs per token of context, for all layers alike. `reach`: tokens it looks back at most.

    `kv_bytes` are stored in as many copies as tensor parallelism exceeds `heads` (0: always whole on every GPU).
    """

    reach: int
    heads: int
    kv_bytes: float
    decode_flops: float
    prefill_flops: float
    cuts: tuple[int, int] = (NO_LIMIT, NO_LIMIT)  # GPUs that the arithmetic is cut over at most: decode, prefill


Reach = tuple[int, int, tuple[int, int]]  # of Context: reach, heads and cuts


@dataclass(frozen=True, slots=True)
class Work:
    """Sums over all layers. Bytes and flops per token are by format of the weights ("" is the model's own dtype)."""

    layers: int
    moe_layers: int
    latent_layers: int
    sparse_layers: int
    collectives: int  # under tensor parallelism: one after each row-parallel part of a layer
    hidden: int
    bytes: Mapping[str, float]  # weights that every step reads, experts and head aside
    flops: Mapping[str, float]
    whole_bytes: Mapping[str, float]  # of these, what tensor parallelism does not cut: every GPU has and does all of it
    whole_flops: Mapping[str, float]
    experts: tuple[Experts, ...]
    head_bytes: float
    head_flops: float  # per sequence: only the last token of a prompt needs the head
    contexts: tuple[Context, ...]
    state_bytes: float  # of recurrent layers, per sequence, read and written each step


@lru_cache(maxsize=1024)
def work_of(model: Model, precision: str, kv_bytes_per_element: float = 2) -> Work:
    """Raises UnknownNameError for an unknown precision."""
    from llmfleet.planner.model.precision import at_precision

    stored, dtype = at_precision(model, precision)
    return _sum(stored, dtype, kv_bytes_per_element)


def _sum(model: Model, dtype: str, element: float) -> Work:
    sizes: dict[str, float] = {}
    flops: dict[str, float] = {}
    whole_sizes: dict[str, float] = {}
    whole_flops: dict[str, float] = {}
    experts: dict[tuple[int, int], tuple[float, dict[str, float]]] = {}
    contexts: dict[Reach, list[float]] = {}
    state, moe_layers, latent_layers, sparse_layers, collectives = 0.0, 0, 0, 0, 0
    for layer, times in distinct_layers(model.layers).items():
        for weight in layer.weights:
            if weight.experts:
                key = (weight.experts, weight.top_k)
                size, works = experts.get(key, (0.0, {}))
                experts[key] = (size + times * weight_bytes(weight, dtype), works)
                _count_flops(works, weight, times)
            else:
                kinds = [(sizes, flops)] + [(whole_sizes, whole_flops)] * (weight.split == "none")
                for size_by, flops_by in kinds:
                    name = _format(weight)
                    size_by[name] = size_by.get(name, 0.0) + times * weight_bytes(weight, dtype)
                    _count_flops(flops_by, weight, times)
        _count_caches(contexts, model, layer, times, element)
        state += times * sum(_state_bytes(c, element) for c in layer.caches)
        moe_layers += times * any(weight.experts for weight in layer.weights)
        latents = [cache for cache in layer.caches if isinstance(cache, Latent)]
        latent_layers += times * bool(latents)
        sparse_layers += times * any(cache.indexer_bytes for cache in latents)
        collectives += times * len({w.module.partition(".")[0] for w in layer.weights if w.split == "in"})
    head = [w for w in (*model.first, *model.last) if w.split == "vocab" and (model.tied or not w.lookup)][:1]
    return Work(
        layers=model.num_layers,
        moe_layers=moe_layers,
        latent_layers=latent_layers,
        sparse_layers=sparse_layers,
        collectives=collectives,
        hidden=model.hidden_size,
        bytes=sizes,
        flops=flops,
        whole_bytes=whole_sizes,
        whole_flops=whole_flops,
        experts=tuple(Experts(size, *key, works) for key, (size, works) in sorted(experts.items())),
        head_bytes=sum(weight_bytes(w, dtype) for w in head) if model.task == "generate" else 0.0,
        head_flops=sum(2.0 * w.elements for w in head) if model.task == "generate" else 0.0,
        contexts=tuple(
            Context(reach, heads, read, decode, prefill, cuts)
            for (reach, heads, cuts), (read, decode, prefill) in sorted(contexts.items())
        ),
        state_bytes=state,
    )


def _format(weight: Weight) -> str:
    return weight.format.name if weight.format and len(weight.shape) > 1 else ""


def _count_flops(flops: dict[str, float], weight: Weight, times: int) -> None:
    if len(weight.shape) < 2 or weight.lookup:
        return
    working = weight.elements * (weight.top_k / weight.experts if weight.experts else 1)
    name = _format(weight)
    flops[name] = flops.get(name, 0.0) + 2.0 * times * working


def _count_caches(
    contexts: dict[Reach, list[float]], model: Model, layer: Layer, times: int, element: float
) -> None:
    for cache in layer.caches:
        for one in () if isinstance(cache, State) else _reads(cache, model, element):
            sums = contexts.setdefault((one.reach, one.heads, one.cuts), [0.0, 0.0, 0.0])
            for i, cost in enumerate((one.kv_bytes, one.decode_flops, one.prefill_flops)):
                sums[i] += times * cost


def _reads(cache: Attention | Latent, model: Model, element: float) -> tuple[Context, ...]:
    """What attention of one layer reads of a token before."""
    if isinstance(cache, Attention):
        flops = 2.0 * model.num_heads * (cache.key_dim + cache.value_dim)
        size = cache.kv_heads * (cache.key_dim + cache.value_dim) * element
        return (Context(cache.window or cache.chunk or NO_LIMIT, cache.kv_heads, size, flops, flops),)
    # Decode works on the latent itself (absorbed projections), prefill on keys and values of each head.
    size = (cache.rank + cache.rope_dim) * element
    decode = 2.0 * model.num_heads * (2 * cache.rank + cache.rope_dim)
    cuts = max(1, model.num_heads // LATENT_HEADS)
    if not cache.indexer_bytes:
        prefill = 2.0 * model.num_heads * (2 * model.head_dim + cache.rope_dim)
        return (Context(NO_LIMIT, 0, size, decode, prefill, (cuts, NO_LIMIT)),)
    indexer = Context(NO_LIMIT, 0, float(cache.indexer_bytes), INDEXER_FLOPS, INDEXER_FLOPS, (1, 1))
    return Context(PICKED, 0, size, decode, decode, (cuts, cuts)), indexer  # sparse prefill works on the latent too


def _state_bytes(cache: Cache, element: float) -> float:
    if not isinstance(cache, State):
        return 0.0
    total = 0.0
    for shape, dtype in zip(cache.shapes, cache.dtypes, strict=True):
        size = 1
        for dimension in shape:
            size *= dimension
        total += size * (4 if dtype == "fp32" else element)
    return 2 * total
