"""Decoders that mix attention with Mamba-2 or short convolutions: Granite 4, Falcon-H1, Bamba, LFM2, Mamba-2 itself."""

from __future__ import annotations

from collections.abc import Mapping

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, moe, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, attention, decoder, layer_types, rope, sizes
from llmfleet.planner.model.families.hybrid import mamba2
from llmfleet.planner.model.families.sparse import experts, stacked_experts
from llmfleet.planner.model.types import Cache, Layer, Model, State, Weight

RECURRENT = ("mamba", "linear_attention")
TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
FF_NORMS = ("input_layernorm", "pre_ff_layernorm")


def norms(names: tuple[str, ...], width: int) -> tuple[Weight, ...]:
    return tuple(w for name in names for w in vector(name, width))


def build_granite(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Granite 4, with or without experts; Granite MoE with a shared expert has attention in all layers."""
    s = sizes(c)
    sparse = c.integer("num_local_experts", default=0, least=0) > 0
    e = experts(c) if sparse else None
    shared = c.integer("shared_intermediate_size", default=0, least=0)
    inner = (
        *norms(TWO_NORMS, s.width),
        *(Weight("block_sparse_moe.router.layer", (e.count, s.width)) for _ in range(1) if e),
        *(stacked_experts("block_sparse_moe.", e, s.width, fused="input_linear", down="output_linear") if e else ()),
        *_joined("shared_mlp.", s.width, shared),
    )
    made = {"full_attention": Layer((*_attended(c, s), *inner), (attention(s, "full_attention", 0),))}
    kinds = _kinds(c, s.layers)
    if "mamba" in kinds:
        weights, state = mamba2(c, s.width, prefix="mamba.")
        made["mamba"] = Layer((*weights, *inner), (state,))
    plain = c.raw.get("position_embedding_type") == "nope"
    return decoder(
        name, task, architecture, c, s, _chosen(c, kinds, made), ropes=() if plain else rope(c, s), e=e
    )


def _joined(prefix: str, width: int, inner: int) -> tuple[Weight, ...]:
    """Gate and up projection in one matrix."""
    if not inner:
        return ()
    up = matrix(f"{prefix}input_linear", 2 * inner, width, "out")
    return *up, *matrix(f"{prefix}output_linear", width, inner, "in")


def _attended(c: Config, s: Sizes) -> tuple[Weight, ...]:
    bias = c.flag("attention_bias")
    return gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=bias, out_bias=bias)


def _kinds(c: Config, count: int) -> tuple[str, ...]:
    listed = layer_types(c, count)
    return tuple("mamba" if k in RECURRENT else "full_attention" if k == "attention" else k for k in listed)


def _chosen(c: Config, kinds: tuple[str, ...], made: Mapping[str, Layer]) -> list[Layer]:
    unknown = sorted(set(kinds) - set(made))
    if unknown:
        raise ModelError(f'{c.where}: layer_types: "{unknown[0]}" is no known kind of layer')
    return [made[kind] for kind in kinds]


def build_bamba(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    weights, state = mamba2(c, s.width, prefix="mamba.")
    bias = c.flag("mlp_bias")
    inner = (*norms(FF_NORMS, s.width), *feed_forward(s.width, s.inner, prefix="feed_forward.", bias=bias))
    attends = Layer((*_attended(c, s), *inner), (attention(s, "full_attention", 0),))
    recurrent, full = Layer((*weights, *inner), (state,)), set(c.integers("attn_layer_indices"))
    layers = [attends if i in full else recurrent for i in range(s.layers)]
    return decoder(name, task, architecture, c, s, layers, ropes=rope(c.filled(partial_rotary_factor=0.5), s))


def build_falcon_h1(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Attention and Mamba-2 side by side in every layer: each keeps its own cache."""
    s = sizes(c)
    weights, state = mamba2(c, s.width, prefix="mamba.")
    normed = c.flag("mamba_rms_norm")
    kept = tuple(w for w in weights if normed or w.module != "mamba.norm")
    bias = c.flag("mlp_bias")
    inner = (*norms(FF_NORMS, s.width), *feed_forward(s.width, s.inner, prefix="feed_forward.", bias=bias))
    layer = Layer((*_attended(c, s), *kept, *inner), (attention(s, "full_attention", 0), state))
    return decoder(name, task, architecture, c, s, [layer] * s.layers, ropes=rope(c, s))


def build_mamba2(name: str, task: Task, architecture: str, c: Config) -> Model:
    """No attention at all: a request's cache does not grow."""
    heads, dim = c.integer("num_heads", most=65536), c.integer("head_dim")
    c = c.filled(
        mamba_num_heads=heads, mamba_head_dim=dim, ssm_state_size=c.integer("state_size"), num_attention_heads=heads,
        max_position_embeddings=8192, intermediate_size=heads * dim,
    )  # fmt: skip
    s = sizes(c)
    weights, state = mamba2(c, s.width)
    layers = [Layer((*vector("norm", s.width), *weights), (state,))] * s.layers
    return decoder(name, task, architecture, c, s, layers, layer_prefix="backbone.layers.")


def build_lfm2(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Liquid's short convolutions; the larger models have experts."""
    c = c.filled(tie_word_embeddings=c.flag("tie_embedding", default=True))
    s, sparse = sizes(c), architecture == "Lfm2MoeForCausalLM"
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    ends = norms(("operator_norm", "ffn_norm"), s.width)
    heads = (*vector("self_attn.q_layernorm", s.head_dim), *vector("self_attn.k_layernorm", s.head_dim))
    attended = (*gqa(s.width, s.heads, s.kv_heads, s.head_dim, names=names), *heads, *ends)
    convolved, state = _short_conv(c, s.width)
    mixers: dict[str, tuple[tuple[Weight, ...], Cache]] = {
        "full_attention": (attended, attention(s, "full_attention", 0)),
        "conv": ((*convolved, *ends), state),
    }
    plain = c.integer("num_dense_layers", default=0, least=0) if sparse else s.layers
    kinds = _lfm2_kinds(c, s.layers)
    unknown = sorted(set(kinds) - set(mixers))
    if unknown:
        raise ModelError(f'{c.where}: layer_types: "{unknown[0]}" is no known kind of layer')
    inner = {on: _lfm2_inner(c, s, on) for on in {i < plain for i in range(s.layers)}}
    layers = [Layer((*mixers[k][0], *inner[i < plain]), (mixers[k][1],)) for i, k in enumerate(kinds)]
    return decoder(name, task, architecture, c, s, layers, ropes=rope(c, s), e=experts(c) if sparse else None)


def _lfm2_kinds(c: Config, count: int) -> tuple[str, ...]:
    full = set(c.integers("full_attn_idxs"))
    if full and not c.names("layer_types"):
        return tuple("full_attention" if i in full else "conv" for i in range(count))
    return layer_types(c, count)


def _lfm2_inner(c: Config, s: Sizes, dense: bool) -> tuple[Weight, ...]:
    if dense:
        return feed_forward(s.width, _lfm2_width(c, s.inner), prefix="feed_forward.")
    e = experts(c)
    bias = vector("feed_forward.expert_bias", e.count, dtype="fp32") if c.flag("use_expert_bias", default=True) else ()
    return *moe(s.width, e.inner, e.count, e.top_k, prefix="feed_forward."), *bias


def _lfm2_width(c: Config, inner: int) -> int:
    """The feed-forward's width is adjusted: two thirds, then up to a multiple."""
    inner = c.integer("block_ff_dim", default=inner)
    if not c.flag("block_auto_adjust_ff_dim"):
        return inner
    step = c.integer("block_multiple_of", default=256)
    adjusted = int(c.number("block_ffn_dim_multiplier", default=1.0) * int(2 * inner / 3))
    return -(-adjusted // step) * step


def _short_conv(c: Config, width: int) -> tuple[tuple[Weight, ...], State]:
    kernel, bias = c.integer("conv_L_cache", default=3), c.flag("conv_bias")
    weights = (
        Weight("conv.conv", (width, 1, kernel), "out"),
        *(vector("conv.conv.bias", width, split="out") if bias else ()),
        *matrix("conv.in_proj", 3 * width, width, "out", bias=bias),
        *matrix("conv.out_proj", width, width, "in", bias=bias),
    )
    return weights, State("short_conv", ((width, kernel - 1),), (None,))
