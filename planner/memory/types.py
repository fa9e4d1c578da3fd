"""Inputs and results of a memory estimate. Sizes are bytes unless a name says GiB."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from llmfleet.planner.figures import Budget

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Shape:
    """How one instance is cut over GPUs. `pp_partition`: layers of each stage; None is the engine's own split."""

    tp: int = 1
    pp: int = 1
    ep: bool = False
    pp_partition: tuple[int, ...] | None = None

    @property
    def gpus(self) -> int:
        return self.tp * self.pp


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The engine flags that memory depends on. None takes that engine version's own default."""

    version: str | None = None  # PEP 440; None: the newest in the catalogue
    dtype: str | None = None
    quantization: str | None = None  # on a 16-bit config: as if quantized so
    kv_cache_dtype: str | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    enable_prefix_caching: bool | None = None  # recurrent layers: a request then holds a state more
    enforce_eager: bool = False
    language_model_only: bool = False  # no encoders for images or sound: so too where all of their limits are 0
    kv_cache_memory_bytes: int | None = None  # given: the pool is exactly this, whatever profiling says


@dataclass(frozen=True, slots=True)
class RankBudget:
    rank: int
    pp_stage: int
    tp_rank: int
    budget: Budget


@dataclass(frozen=True, slots=True)
class Held:
    """What a request that decodes holds in a group of layers: blocks for its last `reach` tokens, and `fixed` ones."""

    block_size: int
    reach: float
    fixed: int

    def blocks(self, tokens: float) -> float:
        return self.fixed + min(tokens, self.reach) / self.block_size


@dataclass(frozen=True, slots=True)
class KvCache:
    """`bytes_per_token` on one GPU; tokens, blocks and concurrency of the instance (the minimum over ranks)."""

    bytes_per_token: float
    block_size: int
    gpu_blocks: int
    tokens: int
    max_concurrency: float
    bytes_per_block: int = 0
    available_bytes: int = 0
    groups: tuple[Held, ...] = ()

    @property
    def most_sequences(self) -> float:
        """That CUDA graphs can be captured for: where layers keep a state, each takes a block."""
        return self.gpu_blocks if any(not group.reach for group in self.groups) else inf

    def tokens_at(self, length: float) -> float:
        """Tokens that fit as requests of that length. Where layers look back only so far, the shorter they are the
        fewer: `tokens` is for the longest.
        """
        each = sum(group.blocks(length) for group in self.groups)
        return self.gpu_blocks / each * length if each else float(self.tokens)


@dataclass(frozen=True, slots=True)
class Memory:
    """`reason` says in one sentence, with numbers, why it does not fit."""

    fits: bool
    reason: str | None
    ranks: tuple[RankBudget, ...]
    kv: KvCache | None
    tightest: Budget
