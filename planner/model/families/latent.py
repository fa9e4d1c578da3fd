"""Decoders with multi-head latent attention: DeepSeek V2, V3, V3.2, Kimi K2, GLM-5."""

from __future__ import annotations

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, matrix, mla, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import decoder, rope, sizes
from llmfleet.planner.model.families.sparse import Experts, expert_weights, experts, sparse_layers
from llmfleet.planner.model.types import Latent, Layer, Model, Weight

NORMS = ("input_layernorm", "post_attention_layernorm")
INDEX_SCALE = 4  # bytes beside each 8-bit key of the sparse-attention indexer


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c.filled(head_dim=c.integer("v_head_dim")))  # of attention in prefill, where keys and values are unfolded
    correction = architecture not in ("DeepseekV2ForCausalLM",) or c.raw.get("topk_method") == "noaux_tc"
    e = experts(c, correction=correction)
    sparse = sparse_layers(c, s.layers)
    indexed = _indexed(c, s.layers)
    layers = [_layer(c, s.width, s.heads, on, index, e, s.inner) for on, index in zip(sparse, indexed, strict=True)]
    return decoder(
        name, task, architecture, c, s, layers,
        ropes=rope(c, s, dim=c.integer("qk_rope_head_dim")),
        e=e,
    )  # fmt: skip


def attention_weights(c: Config, width: int, heads: int) -> tuple[Weight, ...]:
    return mla(
        width,
        heads,
        c.integer("q_lora_rank") if "q_lora_rank" in c else 0,
        c.integer("kv_lora_rank"),
        c.integer("qk_nope_head_dim"),
        c.integer("qk_rope_head_dim"),
        c.integer("v_head_dim"),
        bias=c.flag("attention_bias"),
    )


def _layer(c: Config, width: int, heads: int, sparse: bool, index: str, e: Experts, inner: int) -> Layer:
    weights = (
        *attention_weights(c, width, heads),
        *(_indexer(c, width) if index == "full" else ()),
        *(w for norm in NORMS for w in vector(norm, width)),
        *(expert_weights(width, e) if sparse else feed_forward(width, inner)),
    )
    key = c.integer("index_head_dim") + INDEX_SCALE if index == "full" else 0
    return Layer(weights, (Latent(c.integer("kv_lora_rank"), c.integer("qk_rope_head_dim"), key),))


def _indexed(c: Config, count: int) -> tuple[str, ...]:
    """Which layers choose their tokens themselves ("full"), by another layer's choice ("shared"), or attend to all."""
    if "index_head_dim" not in c:
        return ("none",) * count
    kinds = c.names("indexer_types") or ("full",) * count
    if len(kinds) != count:
        raise ModelError(f"{c.where}: indexer_types names {len(kinds)} layers, num_hidden_layers is {count}")
    return kinds


def _indexer(c: Config, width: int) -> tuple[Weight, ...]:
    """DeepSeek sparse attention: small heads that score tokens. Whole on every rank."""
    heads, dim = c.integer("index_n_heads"), c.integer("index_head_dim")
    return (
        *matrix("self_attn.indexer.wq_b", heads * dim, c.integer("q_lora_rank")),
        *matrix("self_attn.indexer.wk", dim, width),
        *vector("self_attn.indexer.k_norm", dim, bias=True),
        Weight("self_attn.indexer.weights_proj", (heads, width)),
    )
