"""A model as its checkpoint's headers describe it: exact sizes in place of what config.json lets one expect.

Tensors that the architecture does not know stay, whole on every rank; weights that the checkpoint lacks go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from llmfleet.planner.model.types import Layer, Model, Weight, weight_bytes

# Bytes of one element by its safetensors name.
ELEMENT = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1, "F4": 0.5,
}  # fmt: skip
DTYPES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
NOT_LOADED = re.compile(r"(^|\.)mtp\.|rotary_emb\.inv_freq$|\.masked_bias$|position_ids$")
IN_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|h)\.(\d+)\.(.+)$")
TOWER = re.compile(
    r"(^|\.)(visual|vision\w*|audio\w*|embed_vision|embed_audio|multi_modal_projector|connector|image_newline|mm_\w+)(\.|$)"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(prod(self.shape) * ELEMENT[self.dtype])


def with_tensors(model: Model, tensors: Mapping[str, Stored]) -> Model:
    """Only for checkpoints that are not quantized are single weights compared; a quantized one keeps its arithmetic."""
    loaded = {name: stored for name, stored in tensors.items() if not NOT_LOADED.search(name)}
    total = sum(stored.bytes for stored in loaded.values())
    if model.native_quantization:
        return replace(model, exact_bytes=total)
    per_layer, outside, towers = _sorted(loaded, model.num_layers)
    layers = tuple(_layer(layer, per_layer[i]) for i, layer in enumerate(model.layers))
    made: dict[Layer, Layer] = {}
    first, last = _outside(model, outside)
    return replace(
        model,
        layers=tuple(made.setdefault(layer, layer) for layer in layers),
        first=first,
        last=last,
        towers=_as_stored(model.towers, sum(s.bytes for s in towers.values()), model.native_dtype),
        exact_bytes=total,
    )


def majority_dtype(tensors: Mapping[str, Stored]) -> str | None:
    """The dtype of most bytes, where it is one of the usual three."""
    sizes: dict[str, int] = {}
    for stored in tensors.values():
        sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.bytes
    return DTYPES.get(max(sizes, key=lambda dtype: sizes[dtype])) if sizes else None


Named = dict[str, Stored]


def _sorted(tensors: Named, count: int) -> tuple[list[Named], Named, Named]:
    """Tensors of each decoder layer, of towers, and of neither."""
    layers: list[Named] = [{} for _ in range(count)]
    outside: Named = {}
    towers: Named = {}
    for name, stored in tensors.items():
        inside = IN_LAYER.search(name)
        if TOWER.search(name):
            towers[name] = stored
        elif inside and int(inside[1]) < count:
            layers[int(inside[1])][inside[2]] = stored
        elif not inside:  # layers beyond the last are heads for speculation, which are not loaded
            outside[name] = stored
    return layers, outside, towers


def _layer(layer: Layer, tensors: Named) -> Layer:
    expected = {_name(w): w for w in layer.weights}
    kept = [_resized(w, tensors[name]) for name, w in expected.items() if not w.experts and name in tensors]
    experts = [w for w in layer.weights if w.experts]
    of_experts = {
        name
        for name in tensors
        if ("experts." in name and "shared" not in name) or (name in expected and expected[name].experts)
    }
    stored_experts = sum(tensors[name].bytes for name in of_experts)
    unknown = sum(s.bytes for name, s in tensors.items() if name not in expected and name not in of_experts)
    if experts and stored_experts:
        kept += _as_stored(tuple(experts), stored_experts, _dtype_of(tensors))
    if sum(weight_bytes(w, "bf16") for w in kept) == 0:  # other names than we know: the arithmetic stands
        return layer
    return replace(layer, weights=(*kept, *_extra(unknown)))


def _name(weight: Weight) -> str:
    return f"{weight.module}.{weight.suffix}" if weight.suffix else weight.module


def _resized(weight: Weight, stored: Stored) -> Weight:
    same = prod(stored.shape) == prod(weight.shape)
    return replace(weight, shape=weight.shape if same else stored.shape, dtype=DTYPES.get(stored.dtype, weight.dtype))


def _outside(model: Model, tensors: Named) -> tuple[tuple[Weight, ...], tuple[Weight, ...]]:
    """Embeddings, final norm and head by the end of their names."""

    def find(weight: Weight) -> str | None:
        name = _name(weight)
        tail = name.split(".", 1)[-1] if "." in name else name
        return next((n for n in tensors if n in (name, tail) or n.endswith((f".{tail}", name))), None)

    known: dict[str, Weight] = {}
    parts: list[list[Weight]] = [[], []]
    for part, weights in zip(parts, (model.first, model.last), strict=True):
        for weight in weights:
            name = find(weight)
            if name and name not in known:
                known[name] = weight
                part.append(_resized(weight, tensors[name]))
    if not parts[0]:
        return model.first, model.last
    unknown = sum(s.bytes for name, s in tensors.items() if name not in known)
    return tuple(parts[0]), (*parts[1], *_extra(unknown))


def _extra(size: int) -> tuple[Weight, ...]:
    """Bytes of tensors that the architecture does not name, as halves of an element."""
    return (Weight("other tensors", (size // 2,), dtype="fp16", suffix=""),) if size > 1 else ()


def _as_stored(weights: tuple[Weight, ...], size: int, dtype: str) -> tuple[Weight, ...]:
    """The weights, with what the checkpoint has beyond them."""
    return (*weights, *_extra(max(0, size - sum(weight_bytes(w, dtype) for w in weights)))) if size else ()


def _dtype_of(tensors: Named) -> str:
    return majority_dtype(tensors) or "bf16"
