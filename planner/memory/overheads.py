"""What a GPU holds beside weights and KV cache: activations, communication buffers, CUDA graphs. These are estimates.

The formulas were fitted to start-up logs that print the parts apart; docs/validation.md shows how well they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from llmfleet.planner.memory.settings import GRAPHS_COUNTED, SMALL_SAMPLER, V1, Settings, Version
from llmfleet.planner.memory.types import GIB
from llmfleet.planner.model.types import Attention, Latent

FLASHINFER_FUSION: Version = (0, 18, 0)  # all-reduce fused with the norm: its workspace counts as non-torch memory
KEPT_WORKSPACE: Version = (0, 14, 0)  # expert layers' buffers stay allocated (v1/worker/workspace.py)
IMAGES_AS_LONG_AS_THEY_ARE: Version = (0, 13, 0)  # no longer those of a video with its time stamps
STAMPED_VIDEO = 153_600  # tokens: 12288 of the longest video, 12.5 for each (qwen3_vl.py:get_max_video_tokens)
LEAST_TRITON_ROWS = 8  # fewer are sorted (v1/sample/ops/topk_topp_sampler.py)


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
    if stage == 0:
        peak += _encoded(s)
    return int(peak + (_moe_workspace(s) if kept else 0) + 0.05 * GIB)


def _forward(s: Settings) -> float:
    """Two hidden states and the gate, up and product of a feed-forward, for a full batch."""
    inner = 3 * s.model.intermediate_size / s.shape.tp
    return s.max_num_batched_tokens * s.element * (2 * s.model.hidden_size + inner)


def _encoded(s: Settings) -> float:
    """Outputs of the encoder, kept while the decoder is profiled: of as many images as a batch may have, at least one
    (v1/worker/gpu_model_runner.py:profile_run). The encoder's own peak is not estimated."""
    if not s.model.towers or s.version < V1:
        return 0
    tokens = max(s.max_num_batched_tokens, s.model.image_tokens)
    if s.model.deepstack and s.version < IMAGES_AS_LONG_AS_THEY_ARE:
        tokens = max(tokens, STAMPED_VIDEO)
    return tokens * s.model.hidden_size * (1 + s.model.deepstack) * s.element


def _sampler(s: Settings) -> float:
    rows = min(s.max_num_seqs, s.max_num_batched_tokens)
    hidden = 2 * s.max_num_batched_tokens * s.model.hidden_size * s.element
    return (_per_logit(s, rows) + s.element - 2) * rows * s.model.vocab_size + hidden


def _per_logit(s: Settings, rows: int) -> int:
    """Bytes per row and vocabulary entry: 16-bit logits twice, 32-bit copy, mask, softmax; sorting needs 39 in all.

    Since 0.17 a Triton kernel takes the top of the logits without sorting them, on any GPU. Ascend's profiling run
    ends with the logits.
    """
    if s.gpu.vendor == "ascend":
        return 2
    return 14 if s.version >= SMALL_SAMPLER and rows >= LEAST_TRITON_ROWS and not s.cpu else 39


def _moe_workspace(s: Settings) -> float:
    """Inputs and outputs of both expert matrices for every chosen expert: one buffer is the gate's and product's, the
    other is for the rest. Before the kernels were modular the second one held no inputs (fused_moe.py)."""
    m = s.model
    if not m.experts or m.native_quantization == "mxfp4":
        return 0
    inner = m.moe_intermediate / (1 if s.shape.ep else s.shape.tp)
    width = max(2 * inner, m.hidden_size) + (max(inner, m.hidden_size) if s.version >= KEPT_WORKSPACE else inner)
    return s.max_num_batched_tokens * m.top_k * width * s.element


def non_torch(s: Settings) -> int:
    """Growth after the first snapshot of the device: communicators, kernels' workspaces."""
    if s.cpu:
        return int(1.5 * GIB)  # Python, torch and the engine's two processes
    tp, fused = s.shape.tp, _fused_all_reduce(s)
    if tp == 1 and s.gpu.vendor == "ascend":
        return int(0.03 * GIB)  # of one start-up on a 910B3: no source says so
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
    """What of the graphs is taken off the KV cache: on Ascend nothing (vllm_ascend/worker/worker.py)."""
    return size if s.version >= GRAPHS_COUNTED and s.gpu.vendor != "ascend" else 0


def persistent(s: Settings, stage: int) -> int:
    """Token counts for penalties, one for each row and vocabulary entry (v1/worker/gpu/sample/penalties.py)."""
    if s.cpu or s.version < (0, 28, 0) or stage != s.shape.pp - 1 or s.model.task != "generate":
        return 0
    return 4 * s.max_num_seqs * s.model.vocab_size + 4 * s.max_num_seqs * ceil(s.model.vocab_size / 32)


def has_cache(s: Settings) -> bool:
    return any(isinstance(cache, Attention | Latent) or cache for layer in s.model.layers for cache in layer.caches)
