"""MiMo-V2: most layers attend to a short window with more KV heads and a sink, the others to everything; experts."""

from __future__ import annotations

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, decoder, rope, sizes
from llmfleet.planner.model.families.sparse import Experts, expert_weights, experts, sparse_layers
from llmfleet.planner.model.types import Attention, Layer, Model, Weight


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    s, e = sizes(c), experts(c, correction=True)
    windows = c.integers("hybrid_layer_pattern")
    if len(windows) != s.layers:
        raise ModelError(f"{c.where}: hybrid_layer_pattern needs {s.layers} entries, it has {len(windows)}")
    kinds = list(zip(map(bool, windows), sparse_layers(c, s.layers), strict=True))
    made = {kind: _layer(c, s, e, *kind) for kind in set(kinds)}
    return decoder(
        name, task, architecture, c, s, [made[kind] for kind in kinds], ropes=(*rope(c, s), *rope(c, s)), e=e
    )


def _layer(c: Config, s: Sizes, e: Experts, window: bool, sparse: bool) -> Layer:
    stem = "swa_" if window else ""
    heads, kv_heads = c.integer(f"{stem}num_attention_heads", most=65536), c.integer(f"{stem}num_key_value_heads")
    key, value = c.integer(f"{stem}head_dim"), c.integer(f"{stem}v_head_dim")
    sink = c.flag("add_swa_attention_sink_bias" if window else "add_full_attention_sink_bias")
    weights: tuple[Weight, ...] = (
        *gqa(s.width, heads, kv_heads, key, value_dim=value, bias=c.flag("attention_bias")),
        *((Weight("self_attn.attention_sink_bias", (heads,), "out", suffix=""),) if sink else ()),
        *vector("input_layernorm", s.width),
        *vector("post_attention_layernorm", s.width),
        *(expert_weights(s.width, e) if sparse else feed_forward(s.width, s.inner)),
    )
    return Layer(weights, (Attention(kv_heads, key, value, c.integer("sliding_window") if window else 0),))
