"""The header of a GGUF file: its facts and its tensors. Format: ggml/docs/gguf.md of the llama.cpp repository."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.gguf import BLOCKS
from llmfleet.planner.model.storage import Format
from llmfleet.planner.model.types import Attention, Cache, Latent, Layer, Model, Weight

MOST_ENTRIES, MOST_TEXT = 1 << 22, 1 << 26
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip
FILE_TYPES = {0: "fp32", 1: "fp16", 2: "q4_0", 7: "q8_0", 8: "q5_0", 10: "q2_k", 12: "q3_k_m", 14: "q4_k_s",
              15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 30: "iq4_xs", 32: "bf16"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # outputs first, as everywhere here
    kind: str


@dataclass(frozen=True, slots=True)
class Header:
    facts: dict[str, Any]
    tensors: tuple[Tensor, ...]


class _Reader:
    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.stream, self.where = stream, where

    def unpack(self, code: str) -> Any:
        size = struct.calcsize("<" + code)
        data = self.stream.read(size)
        if len(data) < size:
            raise ModelError(f"{self.where}: the GGUF header ends too early; the file is truncated")
        return struct.unpack("<" + code, data)[0]

    def count(self, most: int) -> int:
        number = int(self.unpack("Q"))
        if number > most:
            raise ModelError(f"{self.where}: the GGUF header claims {number} entries; the file is damaged")
        return number

    def text(self) -> str:
        size = self.count(MOST_TEXT)
        data = self.stream.read(size)
        if len(data) < size:
            raise ModelError(f"{self.where}: the GGUF header ends too early; the file is truncated")
        return data.decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """An array becomes its length, but for short arrays of numbers."""
        if kind in SCALARS:
            return self.unpack(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or depth > 2:
            raise ModelError(f"{self.where}: the GGUF header has a value of unknown type {kind}; the file is damaged")
        inner, length = self.unpack("I"), self.count(MOST_ENTRIES)
        values = [self.value(inner, depth + 1) for _ in range(length)]
        return values if length <= 4096 and inner in SCALARS else length


def read_header(stream: BinaryIO, where: str) -> Header:
    """Raises ModelError for a file that is no GGUF or is damaged."""
    if stream.read(4) != b"GGUF":
        raise ModelError(f"{where}: no GGUF file: it does not begin with GGUF")
    reader = _Reader(stream, where)
    version = reader.unpack("I")
    if version not in (2, 3):
        raise ModelError(f"{where}: GGUF version {version} is not understood; known are 2 and 3")
    tensors, entries = reader.count(MOST_ENTRIES), reader.count(MOST_ENTRIES)
    facts = {}
    for _ in range(entries):
        key = reader.text()
        facts[key] = reader.value(reader.unpack("I"))
    return Header(facts, tuple(_tensor(reader) for _ in range(tensors)))


def _tensor(reader: _Reader) -> Tensor:
    name, dims = reader.text(), reader.unpack("I")
    if dims > 4:
        raise ModelError(f"{reader.where}: tensor {name} has {dims} dimensions; the file is damaged")
    shape = tuple(reader.unpack("Q") for _ in range(dims))[::-1]
    kind = reader.unpack("I")
    reader.unpack("Q")
    if kind not in TYPES:
        raise ModelError(f"{reader.where}: tensor {name} is of GGML type {kind}, which is not understood")
    return Tensor(name, shape, TYPES[kind])


def model_from_gguf(header: Header, *, name: str, task: Task | None = None, where: str) -> Model:
    """Every weight as the file stores it. Raises ModelError when a fact is missing."""
    facts = _Facts(header.facts, where)
    count = facts.number("block_count")
    per_layer: list[list[Weight]] = [[] for _ in range(count)]
    first: list[Weight] = []
    last: list[Weight] = []
    for tensor in header.tensors:
        stem, _, rest = tensor.name.removeprefix("blk.").partition(".")
        if tensor.name.startswith("blk.") and stem.isdigit() and int(stem) < count:
            per_layer[int(stem)].append(_weight(tensor, rest))
        else:
            (first if tensor.name.startswith(("token_embd", "position_embd")) else last).append(
                _weight(tensor, tensor.name)
            )
    heads = facts.number("attention.head_count")
    kv_heads = facts.number("attention.head_count_kv", heads)
    width = facts.number("embedding_length")
    dim = facts.number("attention.key_length", max(1, width // heads))
    made: dict[Layer, Layer] = {}
    layers = [Layer(tuple(weights), _caches(facts, i, kv_heads, dim)) for i, weights in enumerate(per_layer)]
    return Model(
        name=name, task=task or "generate", architecture=f"gguf:{facts.family}",
        layers=tuple(made.setdefault(layer, layer) for layer in layers),
        first=tuple(first), last=tuple(last), towers=(),
        tied=not any(w.module.startswith("output.weight") for w in last),
        hidden_size=width, intermediate_size=facts.number("feed_forward_length", 4 * width),
        vocab_size=_vocabulary(header, facts),
        num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, max_context=facts.number("context_length"),
        native_dtype="fp16", native_quantization=FILE_TYPES.get(header.facts.get("general.file_type", -1), "gguf"),
        exact_bytes=sum(_bytes(tensor) for tensor in header.tensors),
        experts=facts.number("expert_count", 0), top_k=facts.number("expert_used_count", 0),
    )  # fmt: skip


class _Facts:
    """Facts under the architecture's own prefix."""

    def __init__(self, facts: dict[str, Any], where: str) -> None:
        self.facts, self.where = facts, where
        self.family = facts.get("general.architecture")
        if not isinstance(self.family, str):
            raise ModelError(f"{where}: general.architecture is missing")

    def number(self, key: str, default: int | None = None) -> int:
        value = self.facts.get(f"{self.family}.{key}", default)
        if isinstance(value, list) and value:
            value = max(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not 0 <= value < 1 << 31
            or (value == 0 and default != 0)
        ):
            raise ModelError(f"{self.where}: {self.family}.{key} is {value!r}; a whole number of 1 or more is needed")
        return value


def _caches(facts: _Facts, layer: int, kv_heads: int, dim: int) -> tuple[Cache, ...]:
    latent = facts.number("attention.kv_lora_rank", 0)
    if latent:
        return (Latent(latent, facts.number("rope.dimension_count", 64)),)
    per_layer = facts.facts.get(f"{facts.family}.attention.head_count_kv")
    heads = per_layer[layer] if isinstance(per_layer, list) and layer < len(per_layer) else kv_heads
    if not heads:
        return ()
    window = facts.number("attention.sliding_window", 0)
    pattern = {"gemma3": 6, "gemma2": 2, "gpt-oss": 2}.get(str(facts.family), 1 if not window else 0)
    sliding = window if pattern == 0 or (pattern > 1 and (layer + 1) % pattern) else 0
    return (Attention(heads, dim, facts.number("attention.value_length", dim), sliding),)


def _vocabulary(header: Header, facts: _Facts) -> int:
    tokens = header.facts.get("tokenizer.ggml.tokens")
    if isinstance(tokens, int) and tokens:
        return tokens
    table = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    return table.shape[0] if table else facts.number("vocab_size")


def _weight(tensor: Tensor, module: str) -> Weight:
    weights, size = BLOCKS[tensor.kind]
    form = Format(tensor.kind.lower(), 8 * size / weights)
    shape = tensor.shape if len(tensor.shape) > 1 else (*tensor.shape, 1)
    return Weight(module, shape, linear=True, format=form, lookup=tensor.name.startswith("token_embd"))


def _bytes(tensor: Tensor) -> int:
    weights, size = BLOCKS[tensor.kind]
    total = size
    for dim in tensor.shape:
        total *= dim
    return total // weights
