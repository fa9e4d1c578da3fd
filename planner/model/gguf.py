"""GGUF: llama.cpp's block formats and the mixtures its quantizer makes of them.

Source of block sizes: llama.cpp ggml/src/ggml-common.h; of the mixtures: src/llama-quant.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from llmfleet.planner.model.storage import Format
from llmfleet.planner.model.types import Layer, Model, Weight

# name: weights of a block, bytes of a block
BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210), "IQ4_XS": (256, 136),
}  # fmt: skip
# A row that is no multiple of 256 falls back: llama-quant.cpp:tensor_type_fallback.
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# mixture: most matrices; values and half of the down projections; the head (or the tied embedding)
GGUF_TYPES: dict[str, tuple[str, str, str]] = {
    "q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "q6_k": ("Q6_K", "Q6_K", "Q6_K"),
    "q5_k_m": ("Q5_K", "Q6_K", "Q6_K"),
    "q5_k_s": ("Q5_K", "Q5_K", "Q6_K"),
    "q5_0": ("Q5_0", "Q5_0", "Q6_K"),
    "q4_k_m": ("Q4_K", "Q6_K", "Q6_K"),
    "q4_k_s": ("Q4_K", "Q5_K", "Q6_K"),
    "q4_0": ("Q4_0", "Q4_0", "Q6_K"),
    "iq4_xs": ("IQ4_XS", "IQ4_XS", "Q6_K"),
    "q3_k_m": ("Q3_K", "Q5_K", "Q6_K"),
    "q2_k": ("Q2_K", "Q4_K", "Q6_K"),
}
MORE_BITS = ("v_proj", "down_proj")


@lru_cache(maxsize=64)
def block_format(kind: str, columns: int) -> Format:
    """The format of a matrix whose rows are so long."""
    if BLOCKS[kind][0] == 256 and columns % 256:
        kind = FALLBACK[kind]
    weights, size = BLOCKS[kind]
    return Format(kind.lower(), 8 * size / weights)


def as_gguf(model: Model, mixture: str) -> Model:
    """The model as llama.cpp's quantizer would write it: every matrix quantized, vectors in 32 bits."""
    usual, more, head = GGUF_TYPES[mixture]
    changed = {layer: (_layer(layer, usual, usual), _layer(layer, usual, more)) for layer in set(model.layers)}
    layers = tuple(changed[layer][_takes_more_bits(i, len(model.layers))] for i, layer in enumerate(model.layers))
    return replace(
        model,
        layers=layers,
        first=tuple(_matrix(w, head if model.tied else usual) for w in model.first),
        last=tuple(_matrix(w, head) for w in model.last),
        towers=tuple(replace(w, format=None, dtype="fp16") for w in model.towers),  # a file of their own
        native_quantization=mixture,
        exact_bytes=None,
    )


def _takes_more_bits(layer: int, count: int) -> bool:
    """llama-quant.cpp:use_more_bits: the first and last eighth and each third between."""
    return layer < count // 8 or layer >= 7 * count // 8 or (layer - count // 8) % 3 == 2


def _layer(layer: Layer, usual: str, more: str) -> Layer:
    return replace(
        layer, weights=tuple(_matrix(w, more if w.module.endswith(MORE_BITS) else usual) for w in layer.weights)
    )


def _matrix(weight: Weight, kind: str) -> Weight:
    if len(weight.shape) != 2 or not (weight.linear or weight.split == "vocab"):
        return weight
    return replace(weight, format=block_format(kind, weight.shape[-1]))
