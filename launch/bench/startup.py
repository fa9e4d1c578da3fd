"""What a running engine says of itself: in its metrics, and in its log when it started."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmfleet.launch.bench.client import Address
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.logs import searched

KV_BLOCKS = re.compile(r'^vllm:cache_config_info\{.*\bnum_gpu_blocks="(\d+)"', re.MULTILINE)
# gpu_model_runner.py and kv_cache_utils.py; "GB" of older releases are GiB too.
WEIGHTS = re.compile(r"(?:Model loading|Loading model weights) took ([\d.]+) ?Gi?B")
KV_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
SAID = "(Model loading|Loading model weights) took|KV cache size:"


@dataclass(frozen=True, slots=True)
class Startup:
    """`weights_gib`: of one GPU. None: the engine does not say."""

    kv_blocks: int | None = None
    kv_tokens: int | None = None
    weights_gib: float | None = None


def from_metrics(where: Address) -> Startup:
    import httpx

    try:
        answer = httpx.get(f"{where.url}/metrics", timeout=5.0, trust_env=False)
    except httpx.HTTPError:
        return Startup()
    found = KV_BLOCKS.search(answer.text) if answer.status_code == 200 else None
    return Startup(kv_blocks=int(found[1])) if found else Startup()


def with_log(known: Startup, fleet: Fleet, instance: str) -> Startup:
    """With what its log has of its last start. Raises what a node does that does not answer."""
    return said(known, searched(fleet, instance, SAID))


def said(known: Startup, lines: Iterable[str]) -> Startup:
    for line in lines:
        weights, tokens = WEIGHTS.search(line), KV_TOKENS.search(line)
        if weights:
            known = replace(known, weights_gib=float(weights[1]))
        if tokens:
            known = replace(known, kv_tokens=int(tokens[1].replace(",", "")))
    return known
