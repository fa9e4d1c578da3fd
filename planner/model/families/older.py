"""Decoders from before Llama, with their own layouts: GPT-2, GPT-J, GPT-NeoX, StarCoder, BLOOM, Falcon, ChatGLM."""

from __future__ import annotations

from dataclasses import replace

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import gqa, matrix, table, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, attention, decoder, rope, sizes
from llmfleet.planner.model.families.towers import mlp2, norms
from llmfleet.planner.model.types import Layer, Model, Rope, Weight

FUSED = ("query_key_value", "query_key_value", "query_key_value", "dense")
GPT = ("c_attn", "c_attn", "c_attn", "c_proj")


def build_gpt2(name: str, task: Task, architecture: str, c: Config) -> Model:
    """StarCoder's variant shares one head of keys and values."""
    shared = architecture == "GPTBigCodeForCausalLM" and c.flag("multi_query", default=True)
    inner = {"intermediate_size": c.integer("n_inner")} if "n_inner" in c else {}
    s = sizes(c.filled(tie_word_embeddings=True, **inner, **({"num_key_value_heads": 1} if shared else {})))
    layer = Layer((
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=True, out_bias=True, prefix="attn.", names=GPT),
        *mlp2("mlp.", s.width, s.inner, names=("c_fc", "c_proj")),
        *norms(("ln_1", "ln_2"), s.width),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    first = (table("transformer.wpe", s.context, s.width, "none"),)
    layers = [layer] * s.layers
    return decoder(
        name, task, architecture, c, s, layers, first=first, norm_bias=True, layer_prefix="transformer.h."
    )


def build_gptj(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    layer = Layer((
        *gqa(s.width, s.heads, s.heads, s.head_dim, prefix="attn.", names=("q_proj", "k_proj", "v_proj", "out_proj")),
        *mlp2("mlp.", s.width, s.inner, names=("fc_in", "fc_out")),
        *norms(("ln_1",), s.width),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    return decoder(
        name, task, architecture, c, s, [layer] * s.layers, norm_bias=True, head_bias=True,
        ropes=rope(c, s, dim=c.integer("rotary_dim", default=64)), layer_prefix="transformer.h.",
    )  # fmt: skip


def build_gpt_neox(name: str, task: Task, architecture: str, c: Config) -> Model:
    s, bias = sizes(c), c.flag("attention_bias", default=True)
    layer = Layer((
        *gqa(s.width, s.heads, s.heads, s.head_dim, bias=bias, out_bias=bias, prefix="attention.", names=FUSED),
        *mlp2("mlp.", s.width, s.inner, names=("dense_h_to_4h", "dense_4h_to_h")),
        *norms(("input_layernorm", "post_attention_layernorm"), s.width),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    part = c.number("rotary_pct", "partial_rotary_factor", default=0.25)
    return decoder(
        name, task, architecture, c, s, [layer] * s.layers, norm_bias=True,
        ropes=rope(c, s, dim=int(s.head_dim * part)), layer_prefix="gpt_neox.layers.",
    )  # fmt: skip


def build_bloom(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c.filled(tie_word_embeddings=True, max_position_embeddings=c.integer("seq_length", default=2048)))
    layer = Layer((
        *gqa(
            s.width, s.heads, s.heads, s.head_dim, bias=True, out_bias=True, prefix="self_attention.", names=FUSED
        ),
        *mlp2("mlp.", s.width, s.inner, names=("dense_h_to_4h", "dense_4h_to_h")),
        *norms(("input_layernorm", "post_attention_layernorm"), s.width),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    first = vector("transformer.word_embeddings_layernorm", s.width, bias=True)
    layers = [layer] * s.layers
    return decoder(name, task, architecture, c, s, layers, first=first, norm_bias=True, layer_prefix="transformer.h.")


def build_falcon(name: str, task: Task, architecture: str, c: Config) -> Model:
    new = c.flag("new_decoder_architecture")
    heads = c.integer("num_attention_heads", "n_head", most=65536)
    shared = c.integer("num_kv_heads", "n_head_kv", default=heads) if new else 1 if c.flag("multi_query") else heads
    inner = {"intermediate_size": c.integer("ffn_hidden_size")} if "ffn_hidden_size" in c else {}
    s = sizes(c.filled(tie_word_embeddings=True, num_key_value_heads=shared, max_position_embeddings=2048, **inner))
    bias = c.flag("bias")
    layer = Layer((
        *gqa(
            s.width, s.heads, s.kv_heads, s.head_dim, bias=bias, out_bias=bias, prefix="self_attention.", names=FUSED
        ),
        *mlp2("mlp.", s.width, s.inner, bias=bias, names=("dense_h_to_4h", "dense_4h_to_h")),
        *norms(_falcon_norms(c, new), s.width),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    ropes = () if c.flag("alibi") else rope(c, s)
    layers = [layer] * s.layers
    return decoder(name, task, architecture, c, s, layers, norm_bias=True, ropes=ropes, layer_prefix="transformer.h.")


def _falcon_norms(c: Config, new: bool) -> tuple[str, ...]:
    if new and c.integer("num_ln_in_parallel_attn", default=2) == 2:
        return "ln_attn", "ln_mlp"
    if new or c.flag("parallel_attn", default=True):
        return ("input_layernorm",)
    return "input_layernorm", "post_attention_layernorm"


def build_chatglm(name: str, task: Task, architecture: str, c: Config) -> Model:
    if "multi_query_attention" not in c:
        raise ModelError(f"{c.where}: multi_query_attention is missing: the first ChatGLM is not understood")
    groups = c.integer("multi_query_group_num") if c.flag("multi_query_attention") else c.integer("num_attention_heads")
    s = sizes(
        c.filled(
            num_key_value_heads=groups, intermediate_size=c.integer("ffn_hidden_size"),
            num_hidden_layers=c.integer("num_layers"), vocab_size=c.integer("padded_vocab_size"),
            head_dim=c.integer("kv_channels"), tie_word_embeddings=False,
        )
    )  # fmt: skip
    plain, bias = c.flag("add_bias_linear"), c.flag("add_qkv_bias")
    layer = Layer((
        *gqa(
            s.width, s.heads, s.kv_heads, s.head_dim, bias=plain or bias, out_bias=plain, prefix="self_attention.",
            names=FUSED,
        ),
        *matrix("mlp.dense_h_to_4h", 2 * s.inner, s.width, "out", bias=plain),
        *matrix("mlp.dense_4h_to_h", s.width, s.inner, "in", bias=plain),
        *norms(("input_layernorm", "post_attention_layernorm"), s.width, bias=not c.flag("rmsnorm", default=True)),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    return _chatglm_frame(decoder(
        name, task, architecture, c, s, [layer] * s.layers, ropes=_chatglm_rope(s),
        norm_bias=not c.flag("rmsnorm", default=True), layer_prefix="transformer.encoder.layers.",
    ), c)  # fmt: skip


def _chatglm_rope(s: Sizes) -> tuple[Rope, ...]:
    return (Rope(s.context, s.head_dim // 2),)


def _chatglm_frame(model: Model, c: Config) -> Model:
    """Some keep no norm behind the last layer."""
    if c.flag("post_layer_norm", default=True):
        return model
    kept: tuple[Weight, ...] = tuple(w for w in model.last if w.module != "model.norm")
    return replace(model, last=kept)
