"""Weights of one rank: what tensor, pipeline and expert parallelism leave on a GPU, as the tensors that vLLM allocates.

Sharding rules: vllm/model_executor/layers (linear, vocab_parallel_embedding, fused_moe/layer), distributed/utils.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

from llmfleet.planner.errors import InputError
from llmfleet.planner.memory import rocm
from llmfleet.planner.memory.allocator import Scratch, allocated, reserved
from llmfleet.planner.memory.settings import LATENT, V1, Settings, Version
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.model.storage import DTYPE_BYTES
from llmfleet.planner.model.types import VOCAB_PADDING, Latent, Layer, Model, Rope, Weight

# Modules that vLLM keeps as one tensor.
FUSED = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
    "query": "qkv_proj", "key": "qkv_proj", "value": "qkv_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "w1": "gate_up_proj", "w2": "gate_up_proj",
    "q_a_proj": "fused_qkv_a_proj", "kv_a_proj_with_mqa": "fused_qkv_a_proj",
    "in_proj_qkv": "in_proj_qkvz", "in_proj_z": "in_proj_qkvz", "in_proj_b": "in_proj_ba", "in_proj_a": "in_proj_ba",
}  # fmt: skip


VIDEO_TABLES: Version = (0, 7, 2)  # four times the rows for a video's positions (rotary_embedding/mrope.py)
VIDEO_FITTED: Version = (0, 32, 0)  # the first release known to keep them for pruned videos only
MARLIN_MXFP4: Version = (0, 12, 0)
WHOLE_ENDS = ("Qwen3MoeForCausalLM",)  # embedding and head on every pipeline stage (models/qwen3_moe.py)
NVIDIA = ("cuda", "hopper-triton", "blackwell")
UNROUNDED = ("cpu", "ascend")  # no blocks of torch's allocator; on Ascend it grows segments (expandable_segments)
MXFP4_TILES = {"rdna4": 256, "cdna": 256, "hopper-triton": 64}
CUTLASS_MLA: Version = (0, 12, 0)
CUTLASS_WORKSPACE = (
    128 << 20
)  # cutlass_mla.py takes it where its module is imported: wherever latent attention looks for a backend
VALUE_DIM, ROPE_DIM = 128, 64  # of a head in every model of that time
ROCM_PADDING = 256  # bytes after each 8-bit row whose length is a multiple of 512 (VLLM_ROCM_FP8_PADDING)


@dataclass(frozen=True, slots=True)
class Cut:
    """How weights are cut and laid out on one rank."""

    tp: int
    ep: int
    dtype: str
    kernels: str
    version: Version


def partition(layers: int, shape: Shape) -> tuple[int, ...]:
    """Layers of each pipeline stage: given, or vLLM's own split (get_pp_indices). Raises InputError."""
    if shape.pp_partition is not None:
        if len(shape.pp_partition) != shape.pp or sum(shape.pp_partition) != layers or min(shape.pp_partition) < 1:
            given = ",".join(map(str, shape.pp_partition))
            raise InputError(f"the partition {given} does not cut {layers} layers into {shape.pp} stages")
        return shape.pp_partition
    if shape.pp < 1 or shape.pp > layers:
        raise InputError(f"PP{shape.pp} cannot cut {layers} layers")
    counts = [layers // shape.pp] * shape.pp
    for i in range(2, layers % shape.pp + 2):
        counts[-i] += 1
    return tuple(counts)


def stage_layers(model: Model, shape: Shape, stage: int) -> tuple[Layer, ...]:
    counts = partition(model.num_layers, shape)
    start = sum(counts[:stage])
    return model.layers[start : start + counts[stage]]


def rank_weights(s: Settings, stage: int) -> int:
    """Bytes of weights and RoPE tables on each rank of a pipeline stage, as the engine's log counts them."""
    return _rank_weights(s.model, s.shape, s.dtype, stage, kernels(s), s.version, s.max_num_batched_tokens)


def kernels(s: Settings) -> str:
    """Whose layouts and paddings the weights take."""
    if s.cpu or s.gpu.vendor in ("ascend", "intel"):
        return s.gpu.vendor
    if s.gpu.vendor == "amd":
        return "rdna4" if s.gpu.arch.startswith("gfx12") else "cdna"
    if s.gpu.compute_capability == (9, 0) and s.version < MARLIN_MXFP4:
        return "hopper-triton"
    return "blackwell" if (s.gpu.compute_capability or (0, 0))[0] == 10 else "cuda"


@lru_cache(maxsize=1024)
def _rank_weights(
    model: Model, shape: Shape, dtype: str, stage: int, kind: str, version: Version, batched: int
) -> int:
    cut = Cut(shape.tp, shape.tp if shape.ep else 1, dtype, kind, version)
    before = [*_before_layers(model, shape, stage, cut), *_buffers(model, stage, batched * DTYPE_BYTES[dtype])]
    ropes = [replace(rope, positions=rope.positions * _rope_factor(rope, version)) for rope in model.ropes]
    tables = [r.positions * r.dim * (4 if r.fp32 else DTYPE_BYTES[dtype]) for r in ropes for _ in range(r.tables)]
    layers = stage_layers(model, shape, stage)
    last = tensor_sizes(model.last if stage == shape.pp - 1 else _whole_ends(model, model.last), cut)
    known = {key: layer_sizes(layer, cut) for key, layer in {id(layer): layer for layer in layers}.items()}
    inside = [size for layer in layers for size in known[id(layer)]]
    if kind == "ascend":
        tables += [2 * size for size in tables]  # cosines and sines apart, each twice (vllm-ascend: _cos_cache)
    if kind in UNROUNDED:
        return sum((*before, *tables, *inside, *last))
    if kind in rocm.LIBRARIES and rocm.COUNTS_DEVICE[0] <= version < rocm.COUNTS_DEVICE[1]:
        steps: list[int | Scratch] = [*before, *rocm.rope_scratch(ropes), *tables, *inside, *last]
        steps += _converted(layers, cut)
        return reserved(steps) + rocm.LIBRARIES[kind]
    return allocated((*before, *tables, *inside, *last))


def _buffers(model: Model, stage: int, per_element: int) -> list[int]:
    """What a model keeps beside its weights for the batch at hand (qwen3_vl.py: deepstack_input_embeds)."""
    if stage:
        return []
    return [per_element * size for size in (*[model.hidden_size] * model.deepstack, model.token_buffer) if size]


def _rope_factor(rope: Rope, version: Version) -> int:
    wide = rope.video and version >= VIDEO_TABLES and not (rope.video == "at first" and version >= VIDEO_FITTED)
    return 4 if wide else 1


def _before_layers(model: Model, shape: Shape, stage: int, cut: Cut) -> list[int]:
    sizes: list[int] = []
    latent = any(isinstance(cache, Latent) for cache in model.layers[-1].caches)
    if latent and cut.version >= CUTLASS_MLA and cut.kernels in NVIDIA:
        sizes.append(CUTLASS_WORKSPACE)
    if stage == 0:
        towers = replace(cut, tp=1) if model.whole_towers else cut
        return [*sizes, *tensor_sizes(model.towers, towers), *tensor_sizes(model.first, cut)]
    if stage == shape.pp - 1 and model.tied and model.task == "generate":
        sizes += tensor_sizes([w for w in model.first if w.split == "vocab"], cut)
    return [*sizes, *tensor_sizes(_whole_ends(model, model.first), cut)]


def _whole_ends(model: Model, ends: Iterable[Weight]) -> list[Weight]:
    """What the code makes on every stage, though only the first or last uses it."""
    whole = model.architecture in WHOLE_ENDS and not model.tied
    return [w for w in ends if w.split == "vocab"] if whole else []


def _converted(layers: Iterable[Layer], cut: Cut) -> list[Scratch]:
    """On AMD integer experts are transposed after loading, layer by layer: the last old tensors stay reserved."""
    found = next((experts for layer in layers if (experts := rocm.integer_experts(layer))), ())
    return [Scratch(tuple(tensor_sizes(found, cut)))] if found else []


def layer_sizes(layer: Layer, cut: Cut) -> list[int]:
    sizes = tensor_sizes((*layer.weights, *_unstored(layer)), cut)
    if any(isinstance(cache, Latent) for cache in layer.caches):
        sizes += _absorbed(layer, cut)
    if cut.kernels in rocm.LIBRARIES:
        sizes += rocm.order_tensors(layer, cut.tp, cut.ep)
    return sizes


def _unstored(layer: Layer) -> list[Weight]:
    form = next((w.format for w in layer.weights if w.module.endswith("q_proj")), None)
    return [replace(weight, format=form) for weight in layer.unstored]


def _absorbed(layer: Layer, cut: Cut) -> list[int]:
    """Latent attention multiplies with 16-bit copies of a quantized kv_b_proj (layers/attention/mla_attention.py)."""
    up = [w for w in layer.weights if w.module.endswith("kv_b_proj") and w.format]
    if LATENT <= cut.version < V1:
        return [size for w in up for size in _products(layer, w, cut)]
    return [prod(sharded(w, cut.tp)) * DTYPE_BYTES[cut.dtype] for w in up]


def _products(layer: Layer, up: Weight, cut: Cut) -> list[int]:
    """vLLM 0.7 multiplied kv_b_proj into the query and output projections and kept the products, quantized alike."""
    parts = {w.module.rpartition(".")[2]: w for w in layer.weights}
    rank, query = up.shape[1], parts.get("q_b_proj") or parts["q_proj"]
    heads, width = parts["o_proj"].shape[1] // VALUE_DIM // cut.tp, parts["o_proj"].shape[0]
    bits = up.format.bits if up.format else 16
    per_head = (query.shape[1] * rank, rank * width, query.shape[1] * ROPE_DIM)
    return [int(heads * elements * bits / 8) for elements in per_head]


def tensor_sizes(weights: Iterable[Weight], cut: Cut) -> list[int]:
    """Bytes of each tensor of a rank, fused modules as one."""
    fused: dict[tuple[str, str, str, int], int] = {}
    for weight in weights:
        stem, _, leaf = weight.module.rpartition(".")
        for kind, size in enumerate(_tensors(weight, cut)):
            key = stem, FUSED.get(leaf, leaf), weight.suffix, kind
            fused[key] = fused.get(key, 0) + size
    return [size for size in fused.values() if size]


def _tensors(weight: Weight, cut: Cut) -> tuple[int, ...]:
    """Bytes of a weight's part on one rank; of a quantized one: numbers, scales and zero points."""
    whole = weight.experts and cut.ep > 1
    shape = weight.shape if whole else sharded(weight, cut.tp)
    times = ceil(weight.experts / cut.ep) if whole else max(1, weight.experts)
    if weight.format is None or len(shape) == 1:
        return (prod(shape) * times * DTYPE_BYTES[weight.dtype or cut.dtype],)
    *rows, columns = padded(weight, shape, cut.kernels)
    data, scales, zeros = weight.format.tensors(prod(rows), columns)
    return data * times, scales * times, zeros * times


def sharded(weight: Weight, tp: int) -> tuple[int, ...]:
    """Shape of the part of a weight that one rank holds; whole experts aside."""
    rows, *rest = weight.shape
    if weight.split == "vocab":
        return ceil(_up(rows, VOCAB_PADDING) / tp), *rest
    if weight.split == "kv" and weight.kv_heads:
        return rows // weight.kv_heads * max(1, weight.kv_heads // tp), *rest
    if weight.split in ("out", "kv"):
        return ceil(rows / tp), *rest
    if weight.split == "in":
        return (*weight.shape[:-1], ceil(weight.shape[-1] / tp))
    return weight.shape


def padded(weight: Weight, shape: tuple[int, ...], kernels: str) -> tuple[int, ...]:
    """With what the kernels add: MXFP4 experts to whole tiles (fused_moe/oracle/mxfp4.py), 8-bit rows on ROCm."""
    form = weight.format.name if weight.format else ""
    if form == "mxfp4" and weight.experts:
        return _tiles(weight, shape, MXFP4_TILES.get(kernels, 128))
    if kernels in rocm.LIBRARIES and form == "fp8" and _padded_on_rocm(weight) and shape[1] % 512 == 0:
        return shape[0], shape[1] + ROCM_PADDING
    return shape


def _padded_on_rocm(weight: Weight) -> bool:
    """Matrices with one scale in all or one a block; a scale for each row leaves them as they are (fp8_utils.py)."""
    return weight.format is not None and len(weight.shape) == 2 and (weight.format.tile != 1 or weight.format.group > 0)


def _tiles(weight: Weight, shape: tuple[int, ...], tile: int) -> tuple[int, ...]:
    rows, columns = shape
    if weight.split == "in":
        return _up(rows, 256), _up(columns, tile)
    halves = 2 if "up" in weight.module and "gate" in weight.module else 1
    return halves * _up(rows // halves, tile), _up(columns, 256)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
