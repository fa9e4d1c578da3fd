"""Decoders of attention and one feed-forward a layer: Llama and what descends from it, Gemma, Phi, OPT, Qwen 1 to 3."""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, attention, decoder, layer_types, rope, sizes, window
from llmfleet.planner.model.types import Layer, Model, Rope, Weight


@dataclass(frozen=True, slots=True)
class Traits:
    """What sets a family apart from Llama. None: the config says, by its usual key."""

    qkv_bias: bool | None = None
    out_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: str = ""  # "head": over each head's width; "all": over all heads at once; "… where KEY": if so configured
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool = False
    gated: bool = True
    fused: bool = False  # checkpoints hold qkv_proj and gate_up_proj
    tied: bool = False
    pattern: int = 0  # each n-th layer attends to everything, the others to a window
    scalars: int = 0  # of the activation, each layer's own
    final_norm: bool = True


GEMMA2_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
PLAIN = Traits()
FAMILIES: dict[str, Traits] = {
    "LlamaForCausalLM": PLAIN,
    "MistralForCausalLM": PLAIN,
    "GraniteForCausalLM": PLAIN,
    "AquilaForCausalLM": PLAIN,
    "InternLM3ForCausalLM": PLAIN,
    "SmolLM3ForCausalLM": PLAIN,
    "SeedOssForCausalLM": Traits(qkv_bias=True, out_bias=False),
    "Qwen2ForCausalLM": Traits(qkv_bias=True, out_bias=False, mlp_bias=False),
    "Qwen3ForCausalLM": Traits(qk_norm="head"),
    "MiMoForCausalLM": Traits(qkv_bias=True, out_bias=False),
    "Gemma2ForCausalLM": Traits(norms=GEMMA2_NORMS, tied=True, pattern=2),
    "Gemma3ForCausalLM": Traits(norms=GEMMA2_NORMS, tied=True, qk_norm="head", pattern=6),
    "GemmaForCausalLM": Traits(tied=True),
    "Phi3ForCausalLM": Traits(fused=True),
    "Exaone4ForCausalLM": Traits(norms=POST_NORMS, qk_norm="head", qkv_bias=False, out_bias=False),
    "Olmo2ForCausalLM": Traits(norms=POST_NORMS, qk_norm="all"),
    "Olmo3ForCausalLM": Traits(norms=POST_NORMS, qk_norm="all"),
    "Glm4ForCausalLM": Traits(
        norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
        out_bias=False,
        fused=True,
    ),
    "Starcoder2ForCausalLM": Traits(
        qkv_bias=True, out_bias=True, mlp_bias=True, norm_bias=True, gated=False, tied=True
    ),
    "StableLmForCausalLM": Traits(norm_bias=True),
    "ArceeForCausalLM": Traits(gated=False),
    "CohereForCausalLM": Traits(norms=("input_layernorm",), tied=True, qk_norm="all where use_qk_norm"),
    "Cohere2ForCausalLM": Traits(norms=("input_layernorm",), tied=True, pattern=4),
    "GlmForCausalLM": Traits(out_bias=False, fused=True),
    "NemotronForCausalLM": Traits(norm_bias=True, gated=False),
    "Ernie4_5ForCausalLM": Traits(tied=True),
    "HunYuanDenseV1ForCausalLM": Traits(qk_norm="head where use_qk_norm"),
    "OlmoForCausalLM": Traits(norms=(), final_norm=False),
    "ApertusForCausalLM": Traits(
        norms=("attention_layernorm", "feedforward_layernorm"), gated=False, qk_norm="head", scalars=4
    ),
    "HeliumForCausalLM": PLAIN,
    "Ministral3ForCausalLM": PLAIN,
    "SolarForCausalLM": PLAIN,
    "YiForCausalLM": PLAIN,
    "XverseForCausalLM": PLAIN,
    "OrionForCausalLM": Traits(norm_bias=True),
    "MiniCPMForCausalLM": Traits(tied=True),
    "InternLMForCausalLM": PLAIN,
    "InternLM2ForCausalLM": PLAIN,
    "BaichuanForCausalLM": Traits(qkv_bias=False, out_bias=False),
    "BaiChuanForCausalLM": Traits(qkv_bias=False, out_bias=False),
    "ExaoneForCausalLM": PLAIN,
}
CLASS_DEFAULTS: dict[str, dict[str, object]] = {
    "Gemma2ForCausalLM": {"head_dim": 256, "sliding_window": 4096},
    "Gemma3ForCausalLM": {
        "head_dim": 256,
        "sliding_window": 4096,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
    "GemmaForCausalLM": {"head_dim": 256},
    "Phi3ForCausalLM": {"sliding_window": None},
    "Qwen3ForCausalLM": {"head_dim": 128},
    "HunYuanDenseV1ForCausalLM": {"use_qk_norm": True},
}
# Keys that some files have by another name.
RENAMED = {
    "bias": ("attention_bias",), "use_bias": ("attention_bias", "mlp_bias"), "num_layers": ("num_hidden_layers",),
    "model_max_length": ("max_position_embeddings",), "attention_head_dim": ("head_dim",),
}  # fmt: skip


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    traits = FAMILIES[architecture]
    renamed = {new: c.raw[old] for old, names in RENAMED.items() if old in c for new in names}
    c = c.filled(**{**renamed, **CLASS_DEFAULTS.get(architecture, {})})
    if c.raw.get("use_cla"):
        raise ModelError(f"{c.where}: use_cla: layers that share another's keys and values are not understood")
    s = sizes(c, tied=traits.tied)
    kinds = layer_types(c, s.layers, pattern=_pattern(c, traits))
    span = window(c)
    uniform = span and not traits.pattern and "layer_types" not in c
    weights = layer_weights(c, s, traits)
    layers = [Layer(weights, (attention(s, "sliding_attention" if uniform else kind, span),)) for kind in kinds]
    return decoder(
        name, task, architecture, c, s, layers,
        ropes=_ropes(c, s, architecture),
        norm_bias=traits.norm_bias,
        last=None if traits.final_norm else (),
    )  # fmt: skip


def _ropes(c: Config, s: Sizes, architecture: str) -> tuple[Rope, ...]:
    """Gemma 3 has a table of its own, without scaling, for the layers with a window."""
    local = (Rope(s.context, s.head_dim),) if architecture == "Gemma3ForCausalLM" else ()
    return *rope(c, s), *local


def _pattern(c: Config, traits: Traits) -> int:
    if isinstance(c.raw.get("sliding_window_pattern"), int):
        return c.integer("sliding_window_pattern")
    return traits.pattern


def layer_weights(c: Config, s: Sizes, traits: Traits) -> tuple[Weight, ...]:
    qkv_bias = c.flag("attention_bias", "use_qkv_bias") if traits.qkv_bias is None else traits.qkv_bias
    out_bias = c.flag("attention_bias") if traits.out_bias is None else traits.out_bias
    mlp_bias = c.flag("mlp_bias", "use_bias") if traits.mlp_bias is None else traits.mlp_bias
    return (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=qkv_bias, out_bias=out_bias, names=_projections(traits)),
        *_qk_norm(c, s, traits),
        *_feed_forward(s, traits, mlp_bias),
        *(w for norm in traits.norms for w in vector(norm, s.width, bias=traits.norm_bias)),
        *(vector("mlp.act_fn", traits.scalars) if traits.scalars else ()),
    )


def _projections(traits: Traits) -> tuple[str, str, str, str]:
    return ("qkv_proj", "qkv_proj", "qkv_proj", "o_proj") if traits.fused else ("q_proj", "k_proj", "v_proj", "o_proj")


def _qk_norm(c: Config, s: Sizes, traits: Traits) -> tuple[Weight, ...]:
    kind, _, condition = traits.qk_norm.partition(" where ")
    if not kind or (condition and not c.flag(condition)):
        return ()
    q, k = (s.head_dim, s.head_dim) if kind == "head" else (s.heads * s.head_dim, s.kv_heads * s.head_dim)
    return *vector("self_attn.q_norm", q), *vector("self_attn.k_norm", k)


def _feed_forward(s: Sizes, traits: Traits, bias: bool) -> tuple[Weight, ...]:
    if traits.fused:
        return *matrix("mlp.gate_up_proj", 2 * s.inner, s.width, "out"), *matrix(
            "mlp.down_proj", s.width, s.inner, "in"
        )
    return feed_forward(s.width, s.inner, gated=traits.gated, bias=bias)
