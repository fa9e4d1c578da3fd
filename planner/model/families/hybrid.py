"""Decoders that mix attention with recurrent layers: Qwen3-Next and 3.5 (gated delta net), Nemotron-H (Mamba-2)."""

from __future__ import annotations

from dataclasses import replace

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, attention, decoder, rope, sizes
from llmfleet.planner.model.families.sparse import Experts, expert_weights, experts, sparse_layers
from llmfleet.planner.model.storage import DTYPES
from llmfleet.planner.model.types import Layer, Model, State, Weight

NORMS = ("input_layernorm", "post_attention_layernorm")


def state_dtype(c: Config) -> str | None:
    """Of the recurrent state; None is the model's own."""
    name = c.raw.get("mamba_ssm_dtype") or c.raw.get("mamba_ssm_cache_dtype")
    return DTYPES.get(name) if isinstance(name, str) else None


def gated_delta_net(c: Config, width: int, *, fused: bool) -> tuple[tuple[Weight, ...], State]:
    """Weights and state. `fused`: the checkpoint keeps queries, keys, values and gate in one matrix."""
    key_heads, value_heads = (
        c.integer("linear_num_key_heads", most=65536),
        c.integer("linear_num_value_heads", most=65536),
    )
    dk, dv, kernel = (
        c.integer("linear_key_head_dim"),
        c.integer("linear_value_head_dim"),
        c.integer("linear_conv_kernel_dim"),
    )
    keys, values = key_heads * dk, value_heads * dv
    conv = 2 * keys + values
    p = "linear_attn."
    if fused:
        into = (
            *matrix(f"{p}in_proj_qkvz", conv + values, width, "out"),
            *_small(f"{p}in_proj_ba", 2 * value_heads, width),
        )
    else:
        into = (
            *matrix(f"{p}in_proj_qkv", conv, width, "out"),
            *matrix(f"{p}in_proj_z", values, width, "out"),
            *_small(f"{p}in_proj_b", value_heads, width),
            *_small(f"{p}in_proj_a", value_heads, width),
        )
    weights = (
        *into,
        Weight(f"{p}conv1d", (conv, 1, kernel), "out"),
        Weight(f"{p}dt_bias", (value_heads,), "out", suffix=""),
        Weight(f"{p}A_log", (value_heads,), "out", suffix="", dtype="fp32"),
        *vector(f"{p}norm", dv),
        *matrix(f"{p}out_proj", width, values, "in"),
    )
    return weights, State("gdn", ((conv, kernel - 1), (value_heads, dv, dk)), (None, state_dtype(c)))


def _small(module: str, outputs: int, inputs: int) -> tuple[Weight, ...]:
    return (Weight(module, (outputs, inputs), "out"),)


def build_qwen(name: str, task: Task, architecture: str, c: Config) -> Model:
    c = c.filled(
        linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_value_head_dim=128, partial_rotary_factor=_rotary(c)
    )
    s = sizes(c)
    moe = architecture in ("Qwen3NextForCausalLM", "Qwen3_5MoeForCausalLM")
    e = replace(experts(c, shared_name="shared_expert"), shared_gate=True) if moe else None
    recurrent, state = gated_delta_net(c, s.width, fused=architecture == "Qwen3NextForCausalLM")
    attended = (
        *gqa(
            s.width,
            s.heads,
            s.kv_heads,
            s.head_dim,
            bias=c.flag("attention_bias"),
            gate=c.flag("attn_output_gate", default=True),
        ),
        *vector("self_attn.q_norm", s.head_dim),
        *vector("self_attn.k_norm", s.head_dim),
    )
    norms = tuple(w for norm in NORMS for w in vector(norm, s.width))
    sparse = sparse_layers(c, s.layers) if e else (False,) * s.layers
    layers = []
    for kind, on in zip(_qwen_kinds(c, s.layers), sparse, strict=True):
        inner = expert_weights(s.width, e) if e and on else feed_forward(s.width, s.inner)
        if kind == "linear_attention":
            layers.append(Layer((*recurrent, *norms, *inner), (state,)))
        else:
            layers.append(Layer((*attended, *norms, *inner), (attention(s, kind, 0),)))
    return decoder(name, task, architecture, c, s, layers, ropes=rope(c, s), e=e)


def _rotary(c: Config) -> float:
    inner = c.section("rope_parameters")
    return inner.number("partial_rotary_factor", default=0.25)


def _qwen_kinds(c: Config, count: int) -> tuple[str, ...]:
    kinds = c.names("layer_types")
    if not kinds:
        every = c.integer("full_attention_interval", default=4)
        return tuple("full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(count))
    if len(kinds) != count:
        raise ModelError(f"{c.where}: layer_types names {len(kinds)} layers, num_hidden_layers is {count}")
    return kinds


ALIASES = {"linear_attention": "mamba", "full_attention": "attention"}
PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def build_nemotron(name: str, task: Task, architecture: str, c: Config) -> Model:
    kinds = tuple(ALIASES.get(kind, kind) for kind in c.names("layers_block_type")) or _spelled(c)
    c = c.filled(num_hidden_layers=len(kinds))
    s = replace(sizes(c), layers=len(kinds))
    e = _nemotron_experts(c) if "moe" in kinds else None
    made = {kind: _nemotron_layer(c, s, e, kind) for kind in set(kinds)}
    return decoder(name, task, architecture, c, s, [made[kind] for kind in kinds], layer_prefix="backbone.layers.", e=e)


def _spelled(c: Config) -> tuple[str, ...]:
    letters = c.text("hybrid_override_pattern")
    unknown = set(letters) - set(PATTERN)
    if unknown or not letters or len(letters) > 4096:
        raise ModelError(
            f"{c.where}: hybrid_override_pattern holds {''.join(sorted(unknown)) or 'nothing'!r}; known are M * - E"
        )
    return tuple(PATTERN[letter] for letter in letters)


def _nemotron_experts(c: Config) -> Experts:
    e = experts(c, correction=True, prefix="mixer.")
    latent = c.integer("moe_latent_size", default=0, least=0)
    return replace(e, gated=False, latent=latent)


def _nemotron_layer(c: Config, s: Sizes, e: Experts | None, kind: str) -> Layer:
    norm = vector("norm", s.width)
    if kind == "mamba":
        weights, state = mamba2(c, s.width, state_default="fp32")
        return Layer((*norm, *weights), (state,))
    if kind == "attention":
        weights = gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=c.flag("attention_bias"), prefix="mixer.")
        return Layer((*norm, *weights), (attention(s, "full_attention", 0),))
    if kind == "mlp":
        return Layer((*norm, *feed_forward(s.width, s.inner, prefix="mixer.", gated=False, bias=c.flag("mlp_bias"))))
    if kind == "moe" and e:
        latent = (
            (*matrix("mixer.fc1_latent_proj", e.latent, s.width), *matrix("mixer.fc2_latent_proj", s.width, e.latent))
            if e.latent
            else ()
        )
        return Layer((*norm, *expert_weights(s.width, e), *latent))
    raise ModelError(f'{c.where}: "{kind}" is no known kind of layer; known are {", ".join(PATTERN.values())}')


def mamba2(
    c: Config, width: int, *, prefix: str = "mixer.", state_default: str | None = None
) -> tuple[tuple[Weight, ...], State]:
    """Weights and state. `state_default`: the state's dtype where the config says nothing; None is the model's own."""
    heads, dim = c.integer("mamba_num_heads", "mamba_n_heads", most=65536), c.integer("mamba_head_dim", "mamba_d_head")
    groups, state = c.integer("n_groups", "mamba_n_groups"), c.integer("ssm_state_size", "mamba_d_state")
    kernel, inner = c.integer("conv_kernel", "mamba_d_conv", default=4), heads * dim
    conv = inner + 2 * groups * state
    weights = (
        *matrix(f"{prefix}in_proj", inner + conv + heads, width, "out", bias=c.flag("use_bias", "mamba_proj_bias")),
        Weight(f"{prefix}conv1d", (conv, 1, kernel), "out"),
        *(
            vector(f"{prefix}conv1d.bias", conv, split="out")
            if c.flag("use_conv_bias", "mamba_conv_bias", default=True)
            else ()
        ),
        Weight(f"{prefix}dt_bias", (heads,), "out", suffix=""),
        Weight(f"{prefix}A_log", (heads,), "out", suffix="", dtype="fp32"),
        Weight(f"{prefix}D", (heads,), "out", suffix=""),
        *vector(f"{prefix}norm", inner, split="out"),
        *matrix(f"{prefix}out_proj", width, inner, "in", bias=c.flag("use_bias", "mamba_proj_bias")),
    )
    shapes, common = ((conv, kernel - 1), (heads, dim, state)), 2 * state if groups == 1 else 0
    return weights, State("mamba2", shapes, (None, state_dtype(c) or state_default), common)
