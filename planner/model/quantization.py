"""quantization_config of a checkpoint: which modules are quantized, and in which format.

Matching follows vLLM: compressed-tensors names modules or "re:" patterns, ModelOpt uses wildcards, AWQ and FP8 parts of
names, GPTQModel regular expressions. A list may name 10 000 modules, so patterns are kept by the layer they speak of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from typing import Any

from llmfleet.planner.errors import ModelError
from llmfleet.planner.model import storage
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.storage import Format
from llmfleet.planner.model.types import Layer, Model, Weight

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)$")
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(slots=True)
class Patterns:
    """Names of modules. `of_layer[n]` are patterns that hold inside layer n only, without the part before it."""

    anywhere: list[Callable[[str], object]] = field(default_factory=list)
    of_layer: dict[int, list[Callable[[str], object]]] = field(default_factory=dict)

    def add(self, pattern: str, style: str) -> None:
        at = LAYER.search(pattern) if not pattern.startswith(("re:", "-:")) else None
        if at and "mtp" not in pattern and "visual" not in pattern:
            self.of_layer.setdefault(int(at[1]), []).append(_matcher(at[2], style, inside=True))
        else:
            self.anywhere.append(_matcher(pattern, style))

    def match(self, name: str, layer: int | None, module: str) -> bool:
        own = self.of_layer.get(layer, ()) if layer is not None else ()
        return any(test(module) for test in own) or any(test(name) for test in self.anywhere)


def _matcher(pattern: str, style: str, *, inside: bool = False) -> Callable[[str], object]:
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern[3:]).match
        if pattern.startswith(("-:", "+:")):
            return re.compile(pattern[2:]).match
        if "*" in pattern or "?" in pattern:
            return re.compile(translate(pattern if inside or style == "wildcard" else f"*{pattern}*")).match
    except re.error as error:
        raise ModelError(f"quantization_config: {pattern!r} is no valid pattern: {error}") from error
    if inside:
        return re.compile(rf"{re.escape(pattern)}(\.|$)").match
    return re.compile(rf"(^|.*\.){re.escape(pattern)}(\.|$)").match


@dataclass(slots=True)
class Scheme:
    """`rules`: the first whose patterns match a module says its format (None: not quantized); else `default`."""

    name: str
    default: Format | None
    skipped: Patterns = field(default_factory=Patterns)
    rules: list[tuple[Patterns, Format | None]] = field(default_factory=list)
    head: bool = False

    def format_of(self, weight: Weight, layer: int | None, prefix: str) -> Format | None:
        if not (weight.linear or (self.head and weight.module == "lm_head")) or weight.suffix != "weight":
            return None
        for module in _spellings(weight.module):
            names = (prefix + module,) if prefix else (module, f"model.{module}")  # towers: older and newer checkpoints
            if any(self.skipped.match(name, layer, module) for name in names):
                return None
            for patterns, form in self.rules:
                if any(patterns.match(name, layer, module) for name in names):
                    return form
        return self.default


def _spellings(module: str) -> Iterable[str]:
    """A fused module and the parts that checkpoints may name instead."""
    stem, _, leaf = module.rpartition(".")
    return (module, *(f"{stem}.{part}" for part in FUSED.get(leaf, ())))


def with_native_format(model: Model, raw: Mapping[str, Any] | None, where: str) -> Model:
    """The model as its checkpoint stores it. Raises ModelError when the method is not understood."""
    if not raw:
        return model
    scheme = read_scheme(Config(raw, f"{where}: quantization_config"))
    change = _applied(scheme)
    return replace(
        model,
        layers=tuple(change(layer, i, f"{model.layer_prefix}{i}.") for i, layer in enumerate(model.layers)),
        first=change(Layer(model.first), None, "").weights,
        last=change(Layer(model.last), None, "").weights,
        towers=change(Layer(model.towers), None, "").weights,
        native_quantization=scheme.name,
    )


def _applied(scheme: Scheme) -> Callable[[Layer, int | None, str], Layer]:
    made: dict[Layer, Layer] = {}
    known: dict[tuple[int, tuple[Format | None, ...]], tuple[Layer, Layer]] = {}

    def change(layer: Layer, index: int | None, prefix: str) -> Layer:
        formats = tuple(scheme.format_of(weight, index, prefix) for weight in layer.weights)
        key = (id(layer), formats)
        if key not in known:
            weights = tuple(replace(w, format=f) for w, f in zip(layer.weights, formats, strict=True))
            new = replace(layer, weights=weights)
            known[key] = layer, made.setdefault(new, new)  # the old one is kept, so that its id stays its own
        return known[key][1]

    return change


def read_scheme(q: Config) -> Scheme:
    method = q.text("quant_method", default="modelopt" if "quant_algo" in q else None).lower().replace("_", "-")
    reader = READERS.get(method)
    if reader is None:
        raise ModelError(f"{q.where}: the method {method} is not understood; known are {', '.join(sorted(READERS))}")
    return reader(q)


def _gptq(q: Config) -> Scheme:
    bits, group = q.integer("bits", default=4, most=16), q.integer("group_size", default=128, least=-1)
    scheme = Scheme(f"gptq-int{bits}", storage.integer(f"gptq-int{bits}", bits, max(group, 0)), head=q.flag("lm_head"))
    for pattern in q.section("dynamic").raw:
        if pattern.startswith("-:"):
            scheme.skipped.add(pattern, "regex")
    return _skip(scheme, q, "modules_to_not_convert", "modules_in_block_to_quantize_not")


def _awq(q: Config) -> Scheme:
    bits, group = (
        q.integer("bits", "w_bit", default=4, most=16),
        q.integer("group_size", "q_group_size", default=128, least=-1),
    )
    zeros = q.flag("zero_point", default=True)
    return _skip(Scheme("awq", storage.integer("awq", bits, max(group, 0), zeros=zeros)), q, "modules_to_not_convert")


def _fp8(q: Config) -> Scheme:
    block = q.integers("weight_block_size")
    if block and (len(block) != 2 or min(block) < 1):
        raise ModelError(f"{q.where}: weight_block_size is {list(block)}; two whole numbers of 1 or more are needed")
    form = storage.fp8_block(*block) if block else storage.fp8_tensor()
    return _skip(Scheme("fp8", form), q, "modules_to_not_convert", "ignored_layers")


def _fbgemm(q: Config) -> Scheme:
    return _skip(Scheme("fp8", storage.fp8_channel()), q, "modules_to_not_convert")


def _mxfp4(q: Config) -> Scheme:
    return _skip(Scheme("mxfp4", storage.mxfp4()), q, "modules_to_not_convert")


def _bitsandbytes(q: Config) -> Scheme:
    form = storage.nf4() if q.flag("load_in_4bit", default=True) else storage.int8_channel()
    skip = q if isinstance(q.raw.get("llm_int8_skip_modules"), list) else Config({}, q.where)
    return _skip(Scheme("bitsandbytes", form), skip, "llm_int8_skip_modules")


def _compressed(q: Config) -> Scheme:
    groups = q.section("config_groups").raw
    if not groups:
        raise ModelError(f"{q.where}: config_groups is missing")
    scheme = Scheme("", None)
    for name, raw in groups.items():
        group = Config(raw, f"{q.where}: config_groups: {name}")
        form = _weights_format(group.section("weights"), q.text("format", default=""))
        _target(scheme, group, form)
    return _skip(_named_after_formats(scheme), q, "ignore", style="exact")


def _target(scheme: Scheme, group: Config, form: Format | None) -> None:
    targets = group.names("targets") or ("Linear",)
    if "Linear" in targets:
        scheme.default = form
        return
    patterns = Patterns()
    for target in targets:
        patterns.add(target, "exact")
    scheme.rules.append((patterns, form))


def _weights_format(w: Config, packing: str) -> Format | None:
    if not w.raw:
        return None
    bits, kind = w.integer("num_bits", default=8, most=16), w.text("type", default="int")
    group, strategy = w.integer("group_size", default=0, least=-1), w.text("strategy", default="")
    if kind == "float" and bits == 4:
        return storage.mxfp4() if group == 32 or "mxfp4" in packing else storage.nvfp4()
    if kind == "float" and bits == 8:
        return _float8(w, group, strategy)
    if kind == "int" and group > 0:
        return storage.integer(f"gptq-int{bits}", bits, group, zeros=not w.flag("symmetric", default=True))
    if kind == "int" and bits == 8 and "pack" not in packing:
        return storage.int8_channel()
    if kind == "int":
        return storage.integer(f"gptq-int{bits}", bits, 0)
    raise ModelError(f"{w.where}: weights of {bits} bits and type {kind} are not understood")


def _float8(w: Config, group: int, strategy: str) -> Format:
    if strategy == "block" or "block_structure" in w:
        block = w.integers("block_structure") if isinstance(w.raw.get("block_structure"), list) else ()
        return storage.fp8_block(*block) if len(block) == 2 else storage.fp8_block()
    if group == 32:
        return storage.mxfp8()
    return storage.fp8_channel() if strategy == "channel" else storage.fp8_tensor()


MODELOPT = {
    "FP8": storage.fp8_tensor(), "FP8_PB_WO": storage.fp8_block(), "FP8_PER_CHANNEL_PER_TOKEN": storage.fp8_channel(),
    "NVFP4": storage.nvfp4(), "W4A16_NVFP4": storage.nvfp4(), "MXFP8": storage.mxfp8(),
    "W4A16_AWQ": storage.integer("awq", 4, 128), "NVFP4_AWQ": storage.nvfp4(),
}  # fmt: skip


def _modelopt(q: Config) -> Scheme:
    if "quantized_layers" in q:
        return _mixed(q)
    algorithm = q.text("quant_algo", default="").upper()
    scheme = Scheme("", MODELOPT.get(algorithm))
    if "config_groups" in q and (scheme.default is None or algorithm == "MIXED_PRECISION"):
        scheme = _compressed(Config({**q.raw, "ignore": []}, q.where))
    if scheme.default is None and not scheme.rules:
        raise ModelError(
            f"{q.where}: quant_algo {algorithm or 'is missing'} is not understood; known are {', '.join(MODELOPT)}"
        )
    return _skip(_named_after_formats(scheme), q, "exclude_modules", "ignore", style="wildcard")


def _mixed(q: Config) -> Scheme:
    """ModelOpt's list of every quantized module with its own method."""
    scheme, by_method = Scheme("", None), dict[str, Patterns]()
    for module, how in q.section("quantized_layers").raw.items():
        algorithm = str(how.get("quant_algo", "")).upper() if isinstance(how, Mapping) else ""
        if algorithm not in MODELOPT:
            raise ModelError(
                f"{q.where}: quantized_layers: {module}: quant_algo {algorithm or 'is missing'} is not understood"
            )
        if ".experts." not in module or ".experts.0." in module:
            by_method.setdefault(algorithm, Patterns()).add(module, "exact")
    scheme.rules = [(patterns, MODELOPT[algorithm]) for algorithm, patterns in by_method.items()]
    return _named_after_formats(scheme)


def _named_after_formats(scheme: Scheme) -> Scheme:
    formats = [form for form in (scheme.default, *(form for _, form in scheme.rules)) if form]
    return replace(scheme, name=min(formats, key=lambda form: form.bits).name if formats else "none")


def _skip(scheme: Scheme, q: Config, *keys: str, style: str = "part") -> Scheme:
    for key in keys:
        for pattern in q.names(key):
            scheme.skipped.add(pattern, style)
    return scheme


READERS: dict[str, Callable[[Config], Scheme]] = {
    "gptq": _gptq, "gptqmodel": _gptq, "awq": _awq, "fp8": _fp8, "fbgemm-fp8": _fbgemm, "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes, "compressed-tensors": _compressed, "modelopt": _modelopt, "modelopt-fp4": _modelopt,
}  # fmt: skip
