"""Mixtures of experts with their own ways: Ernie 4.5, Hunyuan, DBRX."""

from __future__ import annotations

from dataclasses import replace

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import attention, decoder, rope, sizes
from llmfleet.planner.model.families.sparse import Experts, expert_weights
from llmfleet.planner.model.types import Layer, Model, Weight

NORMS = ("input_layernorm", "post_attention_layernorm")


def build_ernie(name: str, task: Task, architecture: str, c: Config) -> Model:
    s, bias = sizes(c, tied=True), c.flag("use_bias")
    inner = c.integer("moe_intermediate_size")
    e = Experts(
        count=c.integer("moe_num_experts", "num_local_experts", most=1 << 16), top_k=c.integer("moe_k"), inner=inner,
        shared=inner * c.integer("moe_num_shared_experts", default=0, least=0), correction=True,
    )  # fmt: skip
    first = c.integer("moe_layer_start_index", default=1, least=0)
    last = c.integer("moe_layer_end_index", default=s.layers - 1, least=-1) % s.layers
    every = c.integer("moe_layer_interval", default=1)
    attended = (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=bias, out_bias=bias),
        *(w for norm in NORMS for w in vector(norm, s.width)),
    )
    cache = (attention(s, "full_attention", 0),)
    sparse = Layer((*attended, *expert_weights(s.width, e)), cache)
    dense = Layer((*attended, *feed_forward(s.width, s.inner, bias=bias)), cache)
    layers = [sparse if first <= i <= last and (i + 1) % every == 0 else dense for i in range(s.layers)]
    return decoder(name, task, architecture, c, s, layers, ropes=rope(c, s), e=e)


def build_hunyuan(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Sizes of experts may be given layer by layer; all layers must be alike."""
    if c.raw.get("use_cla"):
        raise ModelError(f"{c.where}: use_cla: layers that share another's keys and values are not understood")
    head = {"head_dim": c.integer("attention_head_dim")} if "attention_head_dim" in c else {}
    s = sizes(c.filled(**head))
    inner = _alike(c, "moe_intermediate_size", s.inner)
    e = Experts(
        count=_alike(c, "num_experts", 1), top_k=_alike(c, "moe_topk", 1), inner=inner,
        shared=s.inner * _alike(c, "num_shared_expert", 1), shared_name="shared_mlp", router="gate.wg",
    )  # fmt: skip
    normed, bias = c.flag("use_qk_norm", default=True), c.flag("attention_bias")
    weights = (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=bias, out_bias=bias),
        *(vector("self_attn.query_layernorm", s.head_dim) if normed else ()),
        *(vector("self_attn.key_layernorm", s.head_dim) if normed else ()),
        *(w for norm in NORMS for w in vector(norm, s.width)),
        *expert_weights(s.width, e),
    )
    layers = [Layer(weights, (attention(s, "full_attention", 0),))] * s.layers
    return decoder(name, task, architecture, c, s, layers, ropes=rope(c, s), e=e)


def _alike(c: Config, key: str, default: int) -> int:
    value = c.raw.get(key)
    if not isinstance(value, list):
        return c.integer(key, default=default)
    found = set(c.integers(key))
    if len(found) != 1:
        raise ModelError(f"{c.where}: {key} differs from layer to layer, which is not understood")
    return Config({key: found.pop()}, c.where).integer(key)


def build_dbrx(name: str, task: Task, architecture: str, c: Config) -> Model:
    attends, ffn = c.section("attn_config"), c.section("ffn_config")
    s = sizes(c.filled(num_key_value_heads=attends.integer("kv_n_heads"), intermediate_size=1))
    e = Experts(
        count=ffn.integer("moe_num_experts", most=1 << 16), top_k=ffn.integer("moe_top_k"),
        inner=ffn.integer("ffn_hidden_size"), prefix="ffn.", router="router.layer",
    )  # fmt: skip
    names = ("Wqkv", "Wqkv", "Wqkv", "out_proj")
    weights: tuple[Weight, ...] = (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, prefix="norm_attn_norm.attn.", names=names),
        *vector("norm_attn_norm.norm_1", s.width),
        *vector("norm_attn_norm.norm_2", s.width),
        *expert_weights(s.width, e),
    )
    layers = [Layer(weights, (attention(s, "full_attention", 0),))] * s.layers
    made = replace(s, inner=e.inner)
    return decoder(
        name, task, architecture, c, made, layers, ropes=rope(c, made), e=e, layer_prefix="transformer.blocks."
    )
