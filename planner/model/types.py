"""A model as a planner sees it: every weight with the rule that shards it, and what each layer caches.

A weight's shape is (outputs, inputs) for matrices; sizes are of the whole model unless a function says "rank".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from llmfleet.planner.figures import Task
from llmfleet.planner.model.storage import DTYPE_BYTES, Format

Split = Literal["none", "out", "in", "vocab", "kv"]
VOCAB_PADDING = 64  # vllm/model_executor/layers/vocab_parallel_embedding.py:DEFAULT_VOCAB_PADDING_SIZE


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor. `split`: the dimension tensor parallelism cuts; "kv" is "out" by whole KV heads, repeated if need be.

    `module` is the name of the module inside its layer (or the whole name outside of layers), as checkpoints spell it.
    """

    module: str
    shape: tuple[int, ...]
    split: Split = "none"
    kv_heads: int = 0
    experts: int = 0  # > 0: so many experts hold one each
    top_k: int = 0  # of these, so many work on a token
    linear: bool = False  # a matrix that quantization methods may take
    dtype: str | None = None  # stays so whatever the model's dtype is
    format: Format | None = None  # None: not quantized
    suffix: str = "weight"
    lookup: bool = False  # an embedding table: rows are read, not multiplied

    @property
    def elements(self) -> int:
        return prod(self.shape) * max(1, self.experts)


@dataclass(frozen=True, slots=True)
class Attention:
    """Keys and values of every head. `window` > 0: only so many tokens back; `chunk` > 0: only inside a chunk."""

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int = 0
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: one vector a token, whole on every rank. `indexer_bytes`: sparse-attention keys."""

    rank: int
    rope_dim: int
    indexer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A recurrent layer: a fixed state a request, its shapes per instance, the dimension that TP cuts first in each.

    `dtypes[i]` None is the model's dtype.
    """

    kind: str  # mamba1 | mamba2 | gdn | kda | short_conv
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str | None, ...]
    common: int = 0  # of the first shape's first dimension, so much is whole on every rank


Cache = Attention | Latent | State


@dataclass(frozen=True, slots=True)
class Layer:
    """`unstored`: rows that vLLM makes beside the checkpoint's, in whatever format the query projection has."""

    weights: tuple[Weight, ...]
    caches: tuple[Cache, ...] = ()
    unstored: tuple[Weight, ...] = ()


@dataclass(frozen=True, slots=True)
class Rope:
    """A table of cosines and sines that the engine keeps beside the weights."""

    positions: int
    dim: int
    fp32: bool = False
    tables: int = 1
    linear: bool = False  # scaled linearly
    video: Literal["", "always", "at first"] = ""  # more rows, for positions in time, height and width


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Architecture facts. `layers` has one entry a decoder (or encoder) layer; equal layers are the same object."""

    name: str
    task: Task
    architecture: str
    layers: tuple[Layer, ...]
    first: tuple[Weight, ...]  # embeddings: on the first pipeline stage
    last: tuple[Weight, ...]  # final norm, head: on the last one
    towers: tuple[Weight, ...]  # vision and audio encoders with their projectors
    tied: bool  # the head is the embedding table
    hidden_size: int
    intermediate_size: int  # widest dense feed-forward
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    native_dtype: str
    native_quantization: str | None = None
    ropes: tuple[Rope, ...] = ()
    layer_prefix: str = "model.layers."
    encoder_only: bool = False
    moe_intermediate: int = 0
    experts: int = 0
    top_k: int = 0
    whole_towers: bool = False  # towers are whole on every tensor-parallel rank
    image_tokens: int = 0  # of the largest image the profiling run makes; 0: no more than a batch has
    deepstack: int = 0  # encoder layers whose outputs join the decoder's, each beside the last one's
    token_buffer: int = 0  # elements a token of the batch in a buffer that the model keeps
    exact_bytes: int | None = None  # of the checkpoint's tensors, where their headers were read

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def outside(self) -> Iterator[Weight]:
        yield from self.first
        yield from self.last
        yield from self.towers

    def weights(self) -> Iterator[tuple[Weight, int]]:
        """Every distinct weight and how often it occurs."""
        for layer, times in _distinct(self):
            for weight in layer.weights:
                yield weight, times
        for weight in self.outside():
            yield weight, 1

    @property
    def params(self) -> int:
        return _params(self)[0]

    @property
    def active_params(self) -> int:
        """Parameters that work on one token: without idle experts, embedding tables and towers."""
        return _params(self)[1]

    def weight_bytes(self, precision: str) -> int:
        """Bytes of the whole model in a precision: a dtype's or a quantization's name. Raises UnknownNameError."""
        from llmfleet.planner.model.precision import at_precision

        return stored_bytes(*at_precision(self, precision))

    def kv_bytes_per_token(self, bytes_per_element: float = 2) -> float:
        """All layers, in the limit of a long context: windows, chunks and recurrent states cost nothing there."""
        return sum(times * _token_bytes(layer, bytes_per_element) for layer, times in _distinct(self))

    def tp_problem(self, tp: int, precision: str | None = None, *, ep: bool = False) -> str | None:
        """Why this tensor parallelism is impossible (in a precision; None: the checkpoint's own), or None.

        `ep`: experts are whole on their ranks, so that nothing of them is cut.
        """
        from llmfleet.planner.model.precision import at_precision

        return _tp_problem(at_precision(self, precision)[0] if precision else self, tp, ep)


def distinct_layers(layers: Iterable[Layer]) -> dict[Layer, int]:
    counts: dict[int, list[Layer]] = {}
    for layer in layers:
        counts.setdefault(id(layer), []).append(layer)
    merged: dict[Layer, int] = {}
    for same in counts.values():
        merged[same[0]] = merged.get(same[0], 0) + len(same)
    return merged


@lru_cache(maxsize=512)
def _distinct(model: Model) -> tuple[tuple[Layer, int], ...]:
    return tuple(distinct_layers(model.layers).items())


@lru_cache(maxsize=512)
def _params(model: Model) -> tuple[int, int]:
    total = sum(weight.elements * times for weight, times in model.weights())
    towers = sum(weight.elements for weight in model.towers)
    idle = sum(
        times * weight.elements * (weight.experts - weight.top_k) // weight.experts
        for weight, times in model.weights()
        if weight.experts
    )
    tables = 0 if model.tied else sum(weight.elements for weight in model.first if weight.lookup)
    return total, total - towers - idle - tables


def stored_bytes(model: Model, dtype: str) -> int:
    """Bytes of all weights as they would lie in a checkpoint of that dtype (tables of positions aside)."""
    return sum(times * weight_bytes(weight, dtype) for weight, times in model.weights())


def weight_bytes(weight: Weight, dtype: str) -> int:
    if weight.format and len(weight.shape) > 1:
        rows, columns = prod(weight.shape[:-1]), weight.shape[-1]
        return weight.format.bytes(rows, columns) * max(1, weight.experts)
    return weight.elements * DTYPE_BYTES[weight.dtype or dtype]


def _token_bytes(layer: Layer, element: float) -> float:
    total = 0.0
    for cache in layer.caches:
        if isinstance(cache, Attention) and not cache.window and not cache.chunk:
            total += cache.kv_heads * (cache.key_dim + cache.value_dim) * element
        elif isinstance(cache, Latent):
            total += (cache.rank + cache.rope_dim) * element + cache.indexer_bytes
    return total


def _tp_problem(model: Model, tp: int, ep: bool) -> str | None:
    if tp < 1:
        return f"TP{tp}: tensor parallelism is 1 or more"
    if model.num_heads % tp:
        return f"TP{tp} does not divide {model.num_heads} attention heads"
    if model.num_kv_heads and model.num_kv_heads % tp and tp % model.num_kv_heads:
        return f"TP{tp} neither divides nor is a multiple of {model.num_kv_heads} KV heads"
    cut = [weight for layer, _ in _distinct(model) for weight in layer.weights if not (ep and weight.experts)]
    for weight in (*cut, *model.first, *model.last) if tp > 1 else ():
        problem = _split_problem(weight, tp)
        if problem:
            return problem
    return None


def _split_problem(weight: Weight, tp: int) -> str | None:
    if weight.split == "vocab":
        padded = -(-weight.shape[0] // VOCAB_PADDING) * VOCAB_PADDING
        return f"TP{tp} does not divide the padded vocabulary of {padded}" if padded % tp else None
    if weight.split not in ("out", "in"):
        return None
    size = weight.shape[0] if weight.split == "out" else weight.shape[-1]
    if size % tp:
        return f"TP{tp} does not divide the {size} {weight.split}puts of {weight.module}"
    padded = weight.format is not None and weight.format.name == "mxfp4"  # its kernels pad each rank's part
    if weight.format and not padded and weight.split == "in" and 0 < weight.format.group < size:
        group = weight.format.group
        if (size // tp) % group:
            left = f"TP{tp} leaves {size // tp} inputs of {weight.module} on a GPU"
            return f"{left}, no multiple of its {weight.format.name} group of {group}"
    return None
