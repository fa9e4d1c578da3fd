"""Checkpoints that no file describes, by what their names say: a model of the catalogue, and how it was quantized.

Publishers of quantized weights keep the model's name and add the method to it. That is an assumption, said wherever it
is used: which modules a publisher left in 16 bits only the checkpoint's config.json tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmfleet.planner.model.precision import at_precision
from llmfleet.planner.model.types import Model

# Endings of names and the precision they stand for; the first that matches counts, so longer ones come first.
ENDINGS: tuple[tuple[str, str], ...] = (
    (r"fp8[-_]block", "fp8_per_block"),
    (r"(?:fp8(?:[-_](?:dynamic|static|kv|tensorwise|per[-_]?tensor))?|float8)", "fp8"),
    (r"(?:(?:modelopt[-_])?nvfp4(?:[-_]?a?16)?|fp4)", "nvfp4"),
    (r"mxfp4", "mxfp4"),
    (r"(?:awq(?:[-_](?:int4|4bit|marlin|w4a16))?|(?:int4|4bit|w4a16)[-_]awq)", "awq"),
    (r"(?:gptq[-_]?(?:int8|8bit)|w8a16|(?:int8|8bit)[-_]gptq)", "gptq-int8"),
    (r"(?:gptq(?:[-_]?(?:int4|4bit|marlin))?|(?:int4|4bit)[-_](?:gptq|autoround))", "gptq-int4"),
    (r"(?:auto[-_]?round(?:[-_](?:int4|4bit|w4a16))?|(?:qat[-_])?w4a16(?:[-_](?:g128|ct))?|int4)", "gptq-int4"),
    (r"(?:int8[-_]w8a8|w8a8(?:[-_]int8)?|int8)", "int8"),
    (r"(?:bnb(?:[-_](?:4bit|nf4))?|unsloth[-_]bnb[-_]4bit|nf4)", "bitsandbytes"),
    (r"(?:bf16|fp16|hf)", ""),
)
ENDING = [(re.compile(rf"^(.+?)[-_.](?:quantized\.)?{ending}$"), method) for ending, method in ENDINGS]


@dataclass(frozen=True, slots=True)
class Kin:
    """`base` is an id of the catalogue; `precision` is empty where the weights are as the base's."""

    base: str
    precision: str

    def __str__(self) -> str:
        return f"{self.base} in {self.precision}" if self.precision else self.base


def kin(name: str, ids: Iterable[str]) -> Kin | None:
    """None where a name does not hold a catalogued model's, or is only one of its publisher's that is misspelt."""
    publisher, _, leaf = name.lower().rpartition("/")
    own: dict[str, str] = {}
    for known in ids:
        own.setdefault(known.rpartition("/")[2].lower(), known)
    if leaf in own:
        return None if own[leaf].lower().startswith(f"{publisher}/") else Kin(own[leaf], "")
    for ending, precision in ENDING:
        found = ending.match(leaf)
        if found and found[1] in own:
            return Kin(own[found[1]], precision)
    return None


def assumed(name: str, base: Model, precision: str) -> Model:
    """The base under another name, its projections in that precision."""
    model = at_precision(base, precision)[0] if precision else base
    return replace(model, name=name)
