"""GPU names as drivers, clouds and people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

VENDORS = {
    "nvidia",
    "amd",
    "huawei",
    "intel",
    "tesla",
    "geforce",
    "quadro",
    "instinct",
    "radeon",
    "gpu",
    "graphics",
    "generation",
}
BOARDS = {"sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "hbm2", "hbm2e", "hbm3", "hbm3e", "oam"}
MEMORY = re.compile(r"^\d+g$")
CPU_SLOT = re.compile(r"^cpu-(\d+(?:\.\d+)?)\s*g(?:i?b)?$", re.IGNORECASE)


def key(name: str, *, boards: bool = False) -> frozenset[str]:
    """The words that matter, in any order: "NVIDIA A800-SXM4-80GB" and "A800 80G" have the same key.

    `boards`: with the words for the kind of board and memory.
    """
    ignored = VENDORS if boards else VENDORS | BOARDS
    text = re.sub(r"\([^)]*\)|™|®", " ", name.lower())
    text = re.sub(r"(\d+)\s*gi?b?\b", r"\1g", text)
    text = re.sub(r"\b(rtx|gtx)(?=\d)", r"\1 ", text)
    text = re.sub(r"(?<=\d)(ada|ti)\b", r" \1", text)
    return frozenset(word for word in re.split(r"[^a-z0-9.]+", text) if word and word not in ignored)


def without_memory(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words if not MEMORY.match(word))


def memory_words(words: frozenset[str]) -> frozenset[str]:
    return words - without_memory(words)


def nearest(name: str, names: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # only where a name was wrong

    spelled = {n.lower(): n for n in names}
    return [spelled[n] for n in get_close_matches(name.lower(), spelled, n=3, cutoff=0.4)]
