"""Decoders of attention and experts: Mixtral, Qwen MoE, Granite MoE, Phi MoE, gpt-oss, MiniMax, GLM-4.5, OLMoE."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, attention, decoder, layer_types, rope, sizes, window
from llmfleet.planner.model.families.sparse import Experts, expert_weights, experts, sparse_layers, stacked_experts
from llmfleet.planner.model.types import Layer, Model, Weight

NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class Traits:
    """None: the config says, by attention_bias."""

    qkv_bias: bool | None = None
    out_bias: bool = False
    qk_norm: str = ""  # head | all | config: "head" where use_qk_norm is true
    norm_bias: bool = False
    prefix: str = "mlp."
    router: str = "gate"
    shared_name: str = "shared_experts"
    shared_gate: bool = False
    correction: bool = False
    windows: bool = False  # sliding_window holds although no layer_types say where


MIXTRAL = Traits(prefix="block_sparse_moe.", windows=True)
FAMILIES: dict[str, Traits] = {
    "MixtralForCausalLM": MIXTRAL,
    "Qwen2MoeForCausalLM": Traits(qkv_bias=True, shared_name="shared_expert", shared_gate=True),
    "Qwen3MoeForCausalLM": Traits(qk_norm="head"),
    "PhiMoEForCausalLM": replace(MIXTRAL, out_bias=True, norm_bias=True),
    "MiniMaxM2ForCausalLM": Traits(qk_norm="all", prefix="block_sparse_moe.", correction=True),
    "Glm4MoeForCausalLM": Traits(qk_norm="config", correction=True),
    "OlmoeForCausalLM": Traits(qk_norm="all"),
    "Dots1ForCausalLM": Traits(qk_norm="head", correction=True),
}


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    traits = FAMILIES[architecture]
    c = c.filled(**({"head_dim": 128} if architecture == "Qwen3MoeForCausalLM" else {}))
    s = sizes(c)
    e = replace(
        experts(
            c, shared_name=traits.shared_name, correction=traits.correction, prefix=traits.prefix, router=traits.router
        ),
        shared_gate=traits.shared_gate,
    )
    span = window(c) if traits.windows else 0
    kind = "sliding_attention" if span else "full_attention"
    attended = (
        *attention_weights(c, s, traits),
        *(w for norm in NORMS for w in vector(norm, s.width, bias=traits.norm_bias)),
    )
    cache = (attention(s, kind, span),)
    sparse = Layer((*attended, *expert_weights(s.width, e)), cache)
    dense = Layer((*attended, *feed_forward(s.width, s.inner)), cache)
    return decoder(
        name, task, architecture, c, s, [sparse if on else dense for on in sparse_layers(c, s.layers)],
        ropes=rope(c, s, dim=c.integer("rotary_dim") if "rotary_dim" in c else None),
        norm_bias=traits.norm_bias, head_bias="lm_head_bias" in c and c.flag("lm_head_bias"),
        e=e,
    )  # fmt: skip


def attention_weights(c: Config, s: Sizes, traits: Traits) -> tuple[Weight, ...]:
    bias = c.flag("attention_bias") if traits.qkv_bias is None else traits.qkv_bias
    return (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=bias, out_bias=traits.out_bias and bias),
        *_qk_norm(c, s, traits.qk_norm),
    )


def _qk_norm(c: Config, s: Sizes, kind: str) -> tuple[Weight, ...]:
    if not kind or (kind == "config" and not c.flag("use_qk_norm")):
        return ()
    if kind == "all":  # the norm is cut with the heads
        return *vector("self_attn.q_norm", s.heads * s.head_dim), *vector("self_attn.k_norm", s.kv_heads * s.head_dim)
    return *vector("self_attn.q_norm", s.head_dim), *vector("self_attn.k_norm", s.head_dim)


def build_granite(name: str, task: Task, architecture: str, c: Config) -> Model:
    s, e = sizes(c, tied=True), experts(c)
    weights = (
        *gqa(
            s.width, s.heads, s.kv_heads, s.head_dim, bias=c.flag("attention_bias"), out_bias=c.flag("attention_bias")
        ),
        *(w for norm in NORMS for w in vector(norm, s.width)),
        Weight("block_sparse_moe.router.layer", (e.count, s.width)),
        *stacked_experts("block_sparse_moe.", e, s.width, fused="input_linear", down="output_linear"),
    )
    layers = [Layer(weights, (attention(s, "full_attention", 0),))] * s.layers
    return decoder(
        name,
        task,
        architecture,
        c,
        s,
        layers,
        ropes=rope(c, s),
        e=e,
    )


def build_gpt_oss(name: str, task: Task, architecture: str, c: Config) -> Model:
    s, e = sizes(c), experts(c)
    weights = (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=True, out_bias=True),
        *vector("self_attn.sinks", s.heads, split="out"),
        *(w for norm in NORMS for w in vector(norm, s.width)),
        Weight("mlp.router", (e.count, s.width)),
        Weight("mlp.router", (e.count,), suffix="bias"),
        *stacked_experts("mlp.experts.", e, s.width, bias=True),
    )
    kinds = layer_types(c, s.layers, pattern=2)
    layers = [Layer(weights, (attention(s, kind, window(c)),)) for kind in kinds]
    return decoder(
        name,
        task,
        architecture,
        c,
        s,
        layers,
        ropes=rope(c, s),
        e=e,
    )


def laguna_layer(s: Sizes, heads: int, kind: str, span: int, e: Experts | None) -> Layer:
    weights = (
        *gqa(s.width, heads, s.kv_heads, s.head_dim),
        *matrix("self_attn.g_proj", heads, s.width, "out"),
        *vector("self_attn.q_norm", s.head_dim),
        *vector("self_attn.k_norm", s.head_dim),
        *(w for norm in NORMS for w in vector(norm, s.width)),
        *(expert_weights(s.width, e) if e else feed_forward(s.width, s.inner)),
    )
    return Layer(weights, (attention(s, kind, span),))


def build_laguna(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Poolside's Laguna: more query heads in the layers with a window, a gate for each head."""
    s, e = sizes(c), replace(experts(c, shared_name="shared_expert"), correction=True)
    heads = c.integers("num_attention_heads_per_layer") or (s.heads,) * s.layers
    if len(heads) != s.layers or min(heads) < 1:
        raise ModelError(f"{c.where}: num_attention_heads_per_layer needs {s.layers} whole numbers of 1 or more")
    kinds, sparse = layer_types(c, s.layers), sparse_layers(c, s.layers)
    layers = [
        laguna_layer(s, h, kind, window(c), e if on else None) for h, kind, on in zip(heads, kinds, sparse, strict=True)
    ]
    return decoder(
        name,
        task,
        architecture,
        c,
        s,
        layers,
        ropes=rope(c, s, tables=2),
        e=e,
    )
