"""A model as if quantized so: which weights a method takes, and in which format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.model import storage
from llmfleet.planner.model.gguf import GGUF_TYPES, as_gguf
from llmfleet.planner.model.storage import DTYPES, Format
from llmfleet.planner.model.types import Layer, Model, Weight

# What `--quantization NAME` means on a 16-bit model, in vLLM's and people's spellings.
METHODS: dict[str, Format] = {
    **dict.fromkeys(("fp8", "fp8_per_channel", "fp8-dynamic", "w8a8-fp8"), storage.fp8_channel()),
    **dict.fromkeys(("fp8_per_tensor", "modelopt"), storage.fp8_tensor()),
    **dict.fromkeys(("fp8_per_block", "fp8-block"), storage.fp8_block()),
    **dict.fromkeys(("int8", "w8a8", "w8a8-int8"), storage.int8_channel()),
    **dict.fromkeys(("gptq-int8", "gptq_int8", "w8a16"), storage.integer("gptq-int8", 8, 128)),
    **dict.fromkeys(("gptq", "gptq-int4", "gptq_marlin", "w4a16", "int4"), storage.integer("gptq-int4", 4, 128)),
    **dict.fromkeys(("awq", "awq_marlin", "awq-int4"), storage.integer("awq", 4, 128, zeros=True)),
    **dict.fromkeys(("nvfp4", "modelopt_fp4"), storage.nvfp4()),
    "mxfp4": storage.mxfp4(),
    "mxfp8": storage.mxfp8(),
    **dict.fromkeys(("bitsandbytes", "bnb", "nf4"), storage.nf4()),
}

# vLLM's names for how a checkpoint keeps its weights, with the beginning of ours that they may stand for: where it is
# kept so, they change nothing of it (vllm/model_executor/layers/quantization/__init__.py).
KEPT = {
    **dict.fromkeys(("compressed-tensors", "modelopt", "modelopt_mixed", "quark", "torchao", "moe_wna16"), ""),
    **dict.fromkeys(("auto-round", "auto_round", "inc"), ""),
    **dict.fromkeys(("gptq", "gptq_marlin"), "gptq"),
    **dict.fromkeys(("awq", "awq_marlin"), "awq"),
    "modelopt_fp4": "nvfp4",
}


def meant(model: Model, name: str | None) -> str | None:
    """What an engine's `--quantization` says beyond the checkpoint: None where it only names what that has already.

    Raises InputError for a name that says nothing of bits where the checkpoint does not say it either.
    """
    key, native = (name or "").lower(), model.native_quantization
    if key in KEPT and native is not None and native.startswith(KEPT[key]):
        return None
    if key in KEPT and key not in METHODS:
        raise InputError(
            f"--quantization {name} says how a checkpoint keeps its weights, not in how many bits, "
            f"and what is known of {model.name} has none of its own",
            hint="As if quantized: fp8, int8, awq, gptq-int4, nvfp4, mxfp4.",
        )
    return name


def known_precisions() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*DTYPES.values(), *METHODS, *GGUF_TYPES)))


@lru_cache(maxsize=512)
def at_precision(model: Model, precision: str) -> tuple[Model, str]:
    """The model in a precision and the dtype of what stays unquantized. Raises UnknownNameError.

    A method that is the checkpoint's own leaves it as it is; another one replaces it.
    """
    name = precision.lower()
    if name == model.native_quantization and name in GGUF_TYPES:
        return model, "fp32"
    if name in DTYPES:
        return (model, DTYPES[name]) if model.native_quantization is None else (unquantized(model), DTYPES[name])
    if name in GGUF_TYPES:
        return as_gguf(model, name), "fp32"
    if name not in METHODS:
        from difflib import get_close_matches

        known = known_precisions()
        raise UnknownNameError("precision", precision, get_close_matches(name, known, n=3), known=known)
    compute = "fp16" if model.native_dtype == "fp32" else model.native_dtype
    if model.native_quantization and same_method(model.native_quantization, name):
        return model, compute
    return quantized(model, METHODS[name]), compute


def same_method(native: str, name: str) -> bool:
    return native == name or (name in METHODS and METHODS[name].name == native)


def unquantized(model: Model) -> Model:
    def plain(weight: Weight) -> Weight:
        return replace(weight, format=None)

    first, last, towers = (tuple(map(plain, part)) for part in (model.first, model.last, model.towers))
    return replace(reformed(model, plain, None), first=first, last=last, towers=towers)


def quantized(model: Model, form: Format) -> Model:
    """All projections of the layers take the format; embeddings, head, norms, routers and towers keep 16 bits."""
    return reformed(model, lambda weight: replace(weight, format=form if weight.linear else None), form.name)


def reformed(model: Model, change: Callable[[Weight], Weight], quantization: str | None) -> Model:
    done: dict[int, Layer] = {}
    for layer in model.layers:  # equal layers are one object
        if id(layer) not in done:
            done[id(layer)] = replace(layer, weights=tuple(map(change, layer.weights)))
    layers = tuple(done[id(layer)] for layer in model.layers)
    return replace(model, layers=layers, native_quantization=quantization, exact_bytes=None)
