"""What a GPU holds beside weights and KV cache: activations, communication buffers, CUDA graphs. These are estimates.

The formulas were fitted to start-up logs that print the parts apart; docs/validation.md shows how well they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from llmfleet.planner.memory.settings import GRAPHS_COUNTED, SMALL_SAMPLER, V1, Settings
from llmfleet.planner.memory.types import GIB
from llmfleet.planner.model.types import Attention, Latent

FLASHINFER_FUSION = (0, 18, 0)  # all-reduce fused with the norm: its workspace counts as non-torch memory

KEPT_WORKSPACE = (0, 12, 0)  # buffers of expert layers stay allocated (v1/worker/workspace.py)


@dataclass(frozen=True, slots=True)
class Overheads:
    """Bytes on one rank."""

    activation: int
    non_torch: int
    graphs: int
    persistent: int  # sampling buffers that stay


def overheads(s: Settings, stage: int) -> Overheads:
    return Overheads(activation(s, stage), non_torch(s), graphs(s), persistent(s, stage))


def activation(s: Settings, stage: int) -> int:
    """Peak of the profiling run: the widest feed-forward; on the last stage perhaps the sampler over the vocabulary."""
    kept = s.version >= KEPT_WORKSPACE
    peak = _forward(s) + (0 if kept else _moe_workspace(s))
    last = stage == s.shape.pp - 1
    if last and s.model.task == "generate":
        peak = max(peak, _sampler(s))
    if not last:
        peak += 2 * s.max_num_batched_tokens * s.model.hidden_size * s.element
    return int(peak + (_moe_workspace(s) if kept else 0) + 0.05 * GIB)


def _forward(s: Settings) -> float:
    """Two hidden states and the gate, up and product of a feed-forward, for a full batch."""
    inner = 3 * s.model.intermediate_size / s.shape.tp
    return s.max_num_batched_tokens * s.element * (2 * s.model.hidden_size + inner)


def _sampler(s: Settings) -> float:
    """Bytes per row and vocabulary entry: 16-bit logits twice, 32-bit copy, mask, softmax; sorting needs 39 in all."""
    per_logit = (14 if s.version >= SMALL_SAMPLER and _flashinfer(s) else 39) + (s.element - 2)
    rows = min(s.max_num_seqs, s.max_num_batched_tokens)
    return per_logit * rows * s.model.vocab_size + 2 * s.max_num_batched_tokens * s.model.hidden_size * s.element


def _flashinfer(s: Settings) -> bool:
    return s.gpu.vendor == "nvidia" and (s.gpu.compute_capability or (0, 0)) >= (8, 0)


def _moe_workspace(s: Settings) -> float:
    """Inputs and outputs of both expert matrices for every chosen expert (fused_moe's two buffers)."""
    m = s.model
    if not m.experts or m.native_quantization == "mxfp4":
        return 0
    inner = m.moe_intermediate / (1 if s.shape.ep else s.shape.tp)
    width = max(inner, m.hidden_size) + max(2 * inner, m.hidden_size)
    return s.max_num_batched_tokens * m.top_k * width * s.element


def non_torch(s: Settings) -> int:
    """Growth after the first snapshot of the device: communicators, kernels' workspaces."""
    if s.cpu:
        return int(1.5 * GIB)  # Python, torch and the engine's two processes
    tp, fused = s.shape.tp, _fused_all_reduce(s)
    if tp == 1:
        alone = 0.25 if s.version >= FLASHINFER_FUSION else 0.13 if s.version >= V1 else 0.1
        return int((alone if s.shape.pp == 1 else 0.07) * GIB)
    if fused and s.version >= FLASHINFER_FUSION:
        return int((1.99 + 0.045 * tp) * GIB)
    if fused and s.version < V1:
        return int(0.9 * tp * GIB)
    return int((0.54 if s.gpu.link_group >= 4 else 0.3) * GIB)


def _fused_all_reduce(s: Settings) -> bool:
    """Hopper and data-centre Blackwell boards with NVSwitch."""
    return (s.gpu.compute_capability or (0, 0)) in ((9, 0), (10, 0), (10, 3)) and s.gpu.link_gbs > 0


def graphs(s: Settings) -> int:
    """CUDA graphs: a share for each captured batch size, growing with the layers."""
    if not s.graphs:
        return 0
    layers = ceil(s.model.num_layers / s.shape.pp)
    size = 0.25 + 0.019 * layers / (1 + 0.1 * (s.shape.tp - 1))
    if any(isinstance(cache, Latent) for cache in s.model.layers[-1].caches):
        size += 0.8
    elif s.model.experts:
        size += 0.3
    return int(size * min(1.0, 0.15 + _captures(s) / 60) * GIB)


def _captures(s: Settings) -> int:
    """Batch sizes that are captured: 1, 2, 4, then steps of 8 to 256, then of 16."""
    top = min(2 * s.max_num_seqs, 512, s.max_num_batched_tokens)
    return 3 + min(top, 256) // 8 + max(0, top - 256) // 16


def counted_graphs(s: Settings, size: int) -> int:
    """What of the graphs is taken off the KV cache."""
    return size if s.version >= GRAPHS_COUNTED else 0


def persistent(s: Settings, stage: int) -> int:
    """Token counts for penalties, one for each row and vocabulary entry (v1/worker/gpu/sample/penalties.py)."""
    if s.cpu or s.version < (0, 28, 0) or stage != s.shape.pp - 1 or s.model.task != "generate":
        return 0
    return 4 * s.max_num_seqs * s.model.vocab_size + 4 * s.max_num_seqs * ceil(s.model.vocab_size / 32)


def has_cache(s: Settings) -> bool:
    return any(isinstance(cache, Attention | Latent) or cache for layer in s.model.layers for cache in layer.caches)
