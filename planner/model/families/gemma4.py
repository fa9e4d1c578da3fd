"""Gemma 4's decoder: two widths of heads, shared KV caches, per-layer embeddings, experts."""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, table, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import decoder, layer_types, sizes
from llmfleet.planner.model.families.sparse import experts, stacked_experts
from llmfleet.planner.model.types import Attention, Layer, Model, Rope, Weight

NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
EXPERT_NORMS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")


@dataclass(frozen=True, slots=True)
class Kind:
    """One way a layer may be built."""

    full: bool
    shares: bool  # its keys and values are an earlier layer's


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    c = c.filled(
        head_dim=256, global_head_dim=512, sliding_window=512, num_kv_shared_layers=0, hidden_size_per_layer_input=0
    )
    s = sizes(c, tied=True)
    own = s.layers - c.integer("num_kv_shared_layers", least=0)
    if own < 1:
        raise ModelError(f"{c.where}: num_kv_shared_layers leaves no layer with a KV cache of its own")
    kinds = [Kind(kind == "full_attention", i >= own) for i, kind in enumerate(layer_types(c, s.layers, pattern=6))]
    made = {kind: _layer(c, s.width, s.heads, s.inner, kind) for kind in set(kinds)}
    e = experts(c) if c.flag("enable_moe_block") else None
    ropes = (Rope(s.context, c.integer("head_dim")), Rope(s.context, c.integer("global_head_dim")))
    return decoder(
        name,
        task,
        architecture,
        c,
        s,
        [made[k] for k in kinds],
        first=_per_layer_tables(c, s.width, s.layers),
        ropes=ropes,
        e=e,
    )


def _layer(c: Config, width: int, heads: int, inner: int, kind: Kind) -> Layer:
    """vLLM's QKVParallelLinear has rows for keys and values in every layer, whether or not they are an earlier layer's,
    and for values where these are the keys (models/gemma4.py)."""
    dim = c.integer("global_head_dim" if kind.full else "head_dim")
    same = kind.full and c.flag("attention_k_eq_v")
    kv_heads = (
        c.integer("num_global_key_value_heads", "num_key_value_heads") if same else c.integer("num_key_value_heads")
    )
    projections = gqa(width, heads, kv_heads, dim)
    unstored = [w for w in projections if w.split == "kv" and (kind.shares or (same and w.module.endswith("v_proj")))]
    wide = 2 if kind.shares and c.flag("use_double_wide_mlp") else 1
    weights = (
        *(w for w in projections if w not in unstored),
        *vector("self_attn.q_norm", dim),
        *(() if kind.shares else vector("self_attn.k_norm", dim)),
        *feed_forward(width, inner * wide),
        *(w for norm in NORMS for w in vector(norm, width)),
        Weight("layer_scalar", (1,), suffix=""),
        *_per_layer_input(c, width),
        *(_experts(c, width) if c.flag("enable_moe_block") else ()),
    )
    window = 0 if kind.full else c.integer("sliding_window")
    return Layer(weights, () if kind.shares else (Attention(kv_heads, dim, dim, window),), tuple(unstored))


def _experts(c: Config, width: int) -> tuple[Weight, ...]:
    e = experts(c)
    return (
        *vector("router.scale", width),
        *vector("router.per_expert_scale", e.count),
        Weight("router.proj", (e.count, width)),
        *stacked_experts("experts.", e, width),
        *(w for norm in EXPERT_NORMS for w in vector(norm, width)),
    )


def _per_layer_input(c: Config, width: int) -> tuple[Weight, ...]:
    size = c.integer("hidden_size_per_layer_input", least=0)
    if not size:
        return ()
    return (
        *matrix("per_layer_input_gate", size, width),
        *matrix("per_layer_projection", width, size),
        *vector("post_per_layer_input_norm", width),
    )


def _per_layer_tables(c: Config, width: int, layers: int) -> tuple[Weight, ...]:
    size = c.integer("hidden_size_per_layer_input", least=0)
    if not size:
        return ()
    vocab = c.integer("vocab_size_per_layer_input", "vocab_size")
    return (
        table("model.embed_tokens_per_layer", vocab, layers * size),
        Weight("model.per_layer_model_projection", (layers * size, width), "out"),
        *vector("model.per_layer_projection_norm", size),
    )
