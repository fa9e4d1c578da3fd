"""Llama 4's decoder: chunked local attention, every fourth layer global; experts in some or all layers."""

from __future__ import annotations

from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import attention, decoder, rope, sizes
from llmfleet.planner.model.families.sparse import experts, stacked_experts
from llmfleet.planner.model.types import Layer, Model, Weight


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    e = experts(c)
    attended = (
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=c.flag("attention_bias")),
        *vector("input_layernorm", s.width),
        *vector("post_attention_layernorm", s.width),
    )
    mixture = (
        *stacked_experts("feed_forward.experts.", e, s.width),
        Weight("feed_forward.router", (e.count, s.width)),
        *feed_forward(s.width, s.inner, prefix="feed_forward.shared_expert."),
    )
    dense = feed_forward(s.width, c.integer("intermediate_size_mlp", "intermediate_size"), prefix="feed_forward.")
    every = c.integer("interleave_moe_layer_step", default=1)
    chunk = c.integer("attention_chunk_size", default=8192)
    layers = []
    for i in range(s.layers):
        kind = "full_attention" if (i + 1) % 4 == 0 else "chunked_attention"
        inner = mixture if (i + 1) % every == 0 else dense
        layers.append(Layer((*attended, *inner), (attention(s, kind, chunk),)))
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
