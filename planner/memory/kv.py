"""The KV cache pool: what a block costs, how many there are, how many requests they hold. Exact once its bytes are.

Source: vllm/v1/core/kv_cache_utils.py (get_kv_cache_groups and what it calls) and kv_cache_interface.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, inf, prod

from llmfleet.planner.memory.settings import (
    HYBRID_POOL,
    IN_FLIGHT,
    LATENT,
    STATES_ALIGNED,
    STATES_NEEDED,
    V1,
    Settings,
    Version,
)
from llmfleet.planner.memory.types import Held, KvCache
from llmfleet.planner.memory.weights import partition
from llmfleet.planner.model.storage import DTYPE_BYTES
from llmfleet.planner.model.types import Attention, Cache, Latent, State

CONCURRENCY_BY_BLOCKS: Version = (0, 9, 0)  # before, as tokens over length: blocks that a request fills in part
TOKENS_BY_CONCURRENCY: Version = (0, 21, 0)  # how the log words the size of the cache


@dataclass(frozen=True, slots=True)
class Spec:
    """How one layer caches: layers of the same kind can share a block table."""

    kind: tuple[str, int]
    cache: Cache
    block_size: int  # tokens
    page: int  # bytes of a block in this layer


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share one block table. `request_blocks`: what one request of the full length holds."""

    stages: tuple[int, ...]  # bytes of one block on each pipeline stage
    request_blocks: int
    held: Held


@dataclass(frozen=True, slots=True)
class Pool:
    """All groups draw from one pool; a block id costs what the widest group needs."""

    block_size: int
    groups: tuple[Group, ...]

    def bytes_per_block(self, stage: int) -> int:
        return max(group.stages[stage] for group in self.groups)

    @property
    def request_blocks(self) -> int:
        return sum(group.request_blocks for group in self.groups)

    def least_bytes(self, stage: int) -> int:
        """The smallest cache that vLLM starts with: one request of full length and the block it never hands out."""
        return (self.request_blocks + 1) * self.bytes_per_block(stage)


def pool(s: Settings) -> Pool | None:
    """None where nothing is cached."""
    layers = [(stage, cache) for stage, caches in enumerate(_stage_caches(s)) for cache in caches]
    if not layers:
        return None
    block = block_size(s, list(dict.fromkeys(cache for _, cache in layers)))
    known = {cache: spec(s, cache, block) for cache in dict.fromkeys(cache for _, cache in layers)}
    specs = [(stage, known[cache]) for stage, cache in layers]
    kinds = {spec.kind for _, spec in specs}
    if len(kinds) > 1 and not _has_state(kinds) and s.version < HYBRID_POOL:
        specs = [(stage, replace(spec, kind=("full", 0))) for stage, spec in specs]
        kinds = {("full", 0)}
    grouped = [specs] if len(kinds) == 1 else _grouped(_same_pages(specs))
    return Pool(block, tuple(_group(s, members) for members in grouped))


def _stage_caches(s: Settings) -> list[list[Cache]]:
    counts = partition(s.model.num_layers, s.shape)
    starts = [sum(counts[:stage]) for stage in range(len(counts))]
    return [
        [cache for layer in s.model.layers[start : start + count] for cache in layer.caches]
        for start, count in zip(starts, counts, strict=True)
    ]


def _has_state(kinds: set[tuple[str, int]]) -> bool:
    return any(kind == "state" for kind, _ in kinds)


def spec(s: Settings, cache: Cache, block: int) -> Spec:
    if isinstance(cache, State):
        return Spec(("state", 0), cache, block, state_bytes(s, cache))
    page = page_bytes(s, cache, block)
    if isinstance(cache, Attention) and cache.window and s.version >= V1:
        return Spec(("window", cache.window), cache, block, page)
    if isinstance(cache, Attention) and cache.chunk and s.version >= V1:
        return Spec(("chunk", cache.chunk), cache, block, page)
    return Spec(("full", 0), cache, block, page)


def _same_pages(specs: list[tuple[int, Spec]]) -> list[tuple[int, Spec]]:
    """Smaller pages hold more tokens if they divide the largest, else get padded (unify_kv_cache_spec_page_size)."""
    largest = max(spec.page for _, spec in specs)

    def grown(spec: Spec) -> Spec:
        if spec.kind[0] != "state" and largest % spec.page == 0:
            return replace(spec, block_size=spec.block_size * (largest // spec.page), page=largest)
        return replace(spec, page=largest)

    made = {spec: grown(spec) for spec in {spec for _, spec in specs}}
    return [(stage, made[spec]) for stage, spec in specs]


def _grouped(specs: list[tuple[int, Spec]]) -> list[list[tuple[int, Spec]]]:
    """Groups of equal size, so that a block costs the same in each (_get_kv_cache_groups_uniform_page_size)."""
    buckets: dict[tuple[tuple[str, int], int], list[tuple[int, Spec]]] = {}
    for stage, spec in specs:
        buckets.setdefault((spec.kind, spec.block_size), []).append((stage, spec))
    counts = [len(bucket) for bucket in buckets.values()]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    groups = []
    for bucket in buckets.values():
        parts = ceil(len(bucket) / size)
        groups += [bucket[i::parts] for i in range(parts)]
    return groups


def _group(s: Settings, members: list[tuple[int, Spec]]) -> Group:
    stages = tuple(sum(spec.page for at, spec in members if at == stage) for stage in range(s.shape.pp))
    most = request_blocks(s, members[0][1])
    return Group(stages, most, _held(members[0][1], most))


def _held(spec: Spec, most: int) -> Held:
    kind, span = spec.kind
    if kind == "state":
        return Held(spec.block_size, 0.0, most)
    return Held(spec.block_size, span or inf, int(kind == "window"))  # a window begins within a block


def page_bytes(s: Settings, cache: Attention | Latent, block: int) -> int:
    """One layer's bytes for one block on one rank."""
    if isinstance(cache, Attention):
        heads = max(1, cache.kv_heads // s.shape.tp)
        return int(heads * block * (cache.key_dim + cache.value_dim) * s.kv_element)
    if s.version < LATENT:  # before latent attention was kept compressed: whole heads, padded to 256
        return int(ceil(s.model.num_heads / s.shape.tp) * block * 2 * 256 * s.kv_element)
    width = cache.rank + cache.rope_dim
    if s.version < V1:
        width = ceil(width / 128) * 128
    return int(block * (width * s.kv_element + cache.indexer_bytes))


def state_bytes(s: Settings, cache: State) -> int:
    """A request's recurrent state in one layer of one rank; its first dimension is cut by TP, a single group is not."""
    whole = (cache.common, *(0 for _ in cache.shapes[1:]))
    cuts = zip(cache.shapes, whole, strict=True)
    shapes = [(ceil((shape[0] - common) / s.shape.tp) + common, *shape[1:]) for shape, common in cuts]
    dtypes = [dtype or s.dtype for dtype in cache.dtypes]
    if s.cpu:
        # What the kernels for AVX-512 BF16 and AMX take (vllm/platforms/cpu.py). A CPU without keeps the model's type:
        # then there is room for more.
        dtypes[-1] = "fp32"
    return sum(prod(shape) * DTYPE_BYTES[dtype] for shape, dtype in zip(shapes, dtypes, strict=True))


def block_size(s: Settings, caches: list[Cache]) -> int:
    """Tokens of a block: asked for, the backend's, or for recurrent layers as many as make a page hold a state."""
    block = s.block_size or _backend_block(s, caches)
    states = [state_bytes(s, cache) for cache in caches if isinstance(cache, State)]
    tokens = [page_bytes(s, cache, 1) for cache in caches if not isinstance(cache, State)]
    if not states or not tokens:
        return block
    step = max(16, block)
    return max(block, step * ceil(max(states) / (step * max(tokens))))


def _backend_block(s: Settings, caches: list[Cache]) -> int:
    if s.cpu and any(isinstance(cache, Latent) for cache in caches):
        return 16
    if s.cpu or s.gpu.vendor == "ascend":
        return 128
    capability = s.gpu.compute_capability or (0, 0)
    if any(isinstance(cache, Latent) and cache.indexer_bytes for cache in caches):
        return 64
    if any(isinstance(cache, Latent) for cache in caches) and capability[0] == 10:
        return 32
    return 16


def request_blocks(s: Settings, spec: Spec) -> int:
    """Blocks that a request of the full length holds in a group (kv_cache_interface.py:max_memory_usage_bytes)."""
    length, block = s.max_model_len, spec.block_size
    kind, span = spec.kind
    in_flight = s.max_num_batched_tokens * _batches_at_once(s)
    if kind == "state":
        aligned = s.version >= STATES_ALIGNED if s.prefix_caching is None else s.prefix_caching
        return 2 if aligned else 1
    if kind == "window":
        return ceil(min(span - 1 + in_flight, length) / block) + 1
    if kind == "chunk":
        return ceil(min(span + in_flight, length) / block)
    return ceil(length / block)


def _batches_at_once(s: Settings) -> int:
    """Batches whose tokens may be under way (config/vllm.py:max_concurrent_batches)."""
    if s.version < IN_FLIGHT:
        return 1
    return s.shape.pp if s.cpu else s.shape.pp + 1


def kv_cache(s: Settings, available: list[int], pool: Pool | None) -> KvCache | None:
    """The instance's cache from each stage's bytes: the minimum over stages. Available bytes may be negative."""
    if pool is None:
        return None
    stage = min(range(s.shape.pp), key=lambda i: available[i] // pool.bytes_per_block(i))
    cost = pool.bytes_per_block(stage)
    blocks = max(0, available[stage] // cost)
    if s.version < CONCURRENCY_BY_BLOCKS:
        concurrency = blocks * pool.block_size / s.max_model_len
    else:
        concurrency = blocks / pool.request_blocks
    return KvCache(
        bytes_per_token=cost * pool.request_blocks / s.max_model_len,
        block_size=pool.block_size,
        gpu_blocks=blocks,
        tokens=_tokens(s, pool, blocks, concurrency),
        max_concurrency=concurrency,
        bytes_per_block=cost,
        available_bytes=max(0, available[stage]),
        groups=tuple(group.held for group in pool.groups),
    )


def states_problem(s: Settings, cache: KvCache | None) -> str | None:
    """vLLM captures graphs for every number of sequences that decode (config/compilation.py)."""
    if cache is None or not s.graphs or s.version < STATES_NEEDED or s.max_num_seqs <= cache.most_sequences:
        return None
    return (
        f"each of {s.max_num_seqs} sequences takes a block for its recurrent state, and there are "
        f"{cache.gpu_blocks}: --max-num-seqs {cache.gpu_blocks} starts"
    )


def _tokens(s: Settings, pool: Pool, blocks: int, concurrency: float) -> int:
    """As the log prints it: until 0.20 from the blocks, since then from the concurrency."""
    if s.version < TOKENS_BY_CONCURRENCY:
        return blocks // len(pool.groups) * pool.block_size
    return int(concurrency * s.max_model_len)
