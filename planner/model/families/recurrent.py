"""Jamba (Mamba-1 and experts) and Kimi Linear (delta attention and latent attention)."""

from __future__ import annotations

from dataclasses import replace

from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import attention, decoder, sizes
from llmfleet.planner.model.families.latent import attention_weights
from llmfleet.planner.model.families.sparse import expert_weights, experts, sparse_layers
from llmfleet.planner.model.types import Latent, Layer, Model, State, Weight


def build_jamba(name: str, task: Task, architecture: str, c: Config) -> Model:
    c = c.filled(
        mamba_expand=2, mamba_d_conv=4, mamba_d_state=16, num_experts=16, num_experts_per_tok=2, mamba_dt_rank=256
    )
    s = sizes(c)
    e = replace(experts(c, prefix="feed_forward.", router="router"), shared=0)
    recurrent, state = _mamba1(c, s.width)
    attended = gqa(s.width, s.heads, s.kv_heads, s.head_dim)
    norms = (*vector("input_layernorm", s.width), *vector("pre_ff_layernorm", s.width))
    inner = {True: expert_weights(s.width, e), False: feed_forward(s.width, s.inner, prefix="feed_forward.")}
    layers = []
    for i in range(s.layers):
        ffn = inner[_nth(c, "expert_layer", i, 2, 1)]
        if _nth(c, "attn_layer", i, 8, 4):
            layers.append(Layer((*attended, *norms, *ffn), (attention(s, "full_attention", 0),)))
        else:
            layers.append(Layer((*recurrent, *norms, *ffn), (state,)))
    return decoder(name, task, architecture, c, s, layers, e=e)


def _nth(c: Config, stem: str, layer: int, period: int, offset: int) -> bool:
    every = c.integer(f"{stem}_period", default=period)
    return layer % every == c.integer(f"{stem}_offset", default=offset, least=0)


def _mamba1(c: Config, width: int) -> tuple[tuple[Weight, ...], State]:
    inner, rank = c.integer("mamba_expand") * width, c.integer("mamba_dt_rank")
    state, kernel = c.integer("mamba_d_state"), c.integer("mamba_d_conv")
    p = "mamba."
    weights = (
        Weight(f"{p}A_log", (inner, state), "out", suffix="", dtype="fp32"),
        Weight(f"{p}D", (inner,), "out", suffix=""),
        Weight(f"{p}conv1d", (inner, 1, kernel), "out"),
        Weight(f"{p}conv1d", (inner,), "out", suffix="bias"),
        *matrix(f"{p}in_proj", 2 * inner, width, "out"),
        *matrix(f"{p}x_proj", rank + 2 * state, inner, "in"),
        *matrix(f"{p}dt_proj", inner, rank, "out", bias=True),
        *matrix(f"{p}out_proj", width, inner, "in"),
        *vector(f"{p}dt_layernorm", rank),
        *vector(f"{p}b_layernorm", state),
        *vector(f"{p}c_layernorm", state),
    )
    return weights, State("mamba1", ((inner, kernel - 1), (inner, state)), (None, None))


def build_kimi(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    e = experts(c, correction=True, prefix="block_sparse_moe.")
    linear = c.section("linear_attn_config")
    full = set(linear.integers("full_attn_layers"))  # counted from 1
    recurrent, state = _delta_attention(linear, s.width)
    attended = attention_weights(c, s.width, s.heads)
    latent = Latent(c.integer("kv_lora_rank"), c.integer("qk_rope_head_dim"))
    norms = (*vector("input_layernorm", s.width), *vector("post_attention_layernorm", s.width))
    layers = []
    for i, sparse in enumerate(sparse_layers(c, s.layers), start=1):
        ffn = expert_weights(s.width, e) if sparse else feed_forward(s.width, s.inner)
        mixer, cache = (attended, latent) if i in full else (recurrent, state)
        layers.append(Layer((*mixer, *norms, *ffn), (cache,)))
    return decoder(name, task, architecture, c, s, layers, e=e)


def _delta_attention(c: Config, width: int) -> tuple[tuple[Weight, ...], State]:
    heads, dim = c.integer("num_heads", most=65536), c.integer("head_dim")
    kernel, inner = c.integer("short_conv_kernel_size", default=4), heads * dim
    p = "self_attn."
    weights = (
        *(w for name in ("q_proj", "k_proj", "v_proj") for w in matrix(p + name, inner, width, "out")),
        *(Weight(f"{p}{name}_conv1d", (inner, 1, kernel), "out", dtype="fp32") for name in "qkv"),
        Weight(f"{p}dt_bias", (inner,), "out", suffix="", dtype="fp32"),
        Weight(f"{p}A_log", (1, 1, heads, 1), suffix="", dtype="fp32"),
        *matrix(f"{p}f_a_proj", dim, width),
        *matrix(f"{p}f_b_proj", inner, dim, "out"),
        *matrix(f"{p}b_proj", heads, width, "out"),
        *matrix(f"{p}g_a_proj", dim, width),
        *matrix(f"{p}g_b_proj", inner, dim, "out"),
        *vector(f"{p}o_norm", dim),
        *matrix(f"{p}o_proj", width, inner, "in"),
    )
    conv = ((inner, kernel - 1),) * 3
    return weights, State("kda", (*conv, (heads, dim, dim)), (None, None, None, "fp32"))
