"""Models with their own layout: OPT, MPT, Phi-2, Qwen 1, Whisper, Llama 3.2 Vision, a searched Llama, Jina v3."""

from __future__ import annotations

from dataclasses import replace

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import feed_forward, gqa, matrix, table, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families import towers as t
from llmfleet.planner.model.families.common import attention, decoder, dtype, interned, rope, sizes
from llmfleet.planner.model.types import Attention, Layer, Model, Weight


def _projections(out: str) -> tuple[str, str, str, str]:
    return "q_proj", "k_proj", "v_proj", out


def build_opt(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c.filled(tie_word_embeddings=True))
    layer = Layer((
        *gqa(s.width, s.heads, s.heads, s.head_dim, bias=True, out_bias=True, names=_projections("out_proj")),
        *vector("self_attn_layer_norm", s.width, bias=True),
        *t.mlp2("", s.width, s.inner),
        *vector("final_layer_norm", s.width, bias=True),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    first = (table("model.decoder.embed_positions", s.context + 2, s.width, "none"),)
    return decoder(
        name,
        task,
        architecture,
        c,
        s,
        [layer] * s.layers,
        norm_bias=True,
        first=first,
        layer_prefix="model.decoder.layers.",
    )


def build_mpt(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c.filled(tie_word_embeddings=True))
    s = replace(s, inner=s.width * c.integer("expansion_ratio", default=4))
    alibi = c.section("attn_config").flag("alibi")
    layer = Layer((
        *vector("norm_1", s.width),
        *matrix("attn.Wqkv", 3 * s.width, s.width, "out"),
        *matrix("attn.out_proj", s.width, s.width, "in"),
        *vector("norm_2", s.width),
        *t.mlp2("ffn.", s.width, s.inner, bias=False, names=("up_proj", "down_proj")),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    first = () if alibi else (table("transformer.wpe", s.context, s.width, "none"),)
    return decoder(name, task, architecture, c, s, [layer] * s.layers, first=first, layer_prefix="transformer.blocks.")


def build_phi(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    layer = Layer((
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, bias=True, out_bias=True, names=_projections("dense")),
        *t.mlp2("mlp.", s.width, s.inner),
        *vector("input_layernorm", s.width, bias=True),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    return decoder(name, task, architecture, c, s, [layer] * s.layers, ropes=rope(c, s), norm_bias=True, head_bias=True)


def build_qwen1(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    inner = s.inner // 2
    layer = Layer((
        *vector("ln_1", s.width),
        *matrix("attn.c_attn", 3 * s.width, s.width, "out", bias=True),
        *matrix("attn.c_proj", s.width, s.width, "in"),
        *vector("ln_2", s.width),
        *matrix("mlp.w1", inner, s.width, "out"),
        *matrix("mlp.w2", inner, s.width, "out"),
        *matrix("mlp.c_proj", s.width, inner, "in"),
    ), (attention(s, "full_attention", 0),))  # fmt: skip
    return decoder(
        name,
        task,
        architecture,
        c,
        replace(s, inner=inner),
        [layer] * s.layers,
        ropes=rope(c, s),
        layer_prefix="transformer.h.",
    )


def build_whisper(name: str, task: Task, architecture: str, c: Config) -> Model:
    """The decoder caches its own keys and values and those of the encoder's output."""
    width, heads, inner = c.integer("d_model"), c.integer("decoder_attention_heads"), c.integer("decoder_ffn_dim")
    cache = Attention(heads, width // heads, width // heads)
    layer = Layer((
        *t.whisper_attention("self_attn", width),
        *t.whisper_attention("encoder_attn", width),
        *t.mlp2("", width, inner),
        *t.norms(("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"), width),
    ), (cache, cache))  # fmt: skip
    return Model(
        name=name, task=task, architecture=architecture,
        layers=interned([layer] * c.integer("decoder_layers", most=4096)),
        first=(
            table("model.decoder.embed_tokens", c.integer("vocab_size"), width),
            table("model.decoder.embed_positions", c.integer("max_target_positions"), width, "none"),
        ),
        last=vector("model.decoder.layer_norm", width, bias=True),
        towers=(*t.whisper_encoder(c, "model.encoder."), *vector("model.encoder.layer_norm", width, bias=True)),
        tied=True, hidden_size=width, intermediate_size=inner, vocab_size=c.integer("vocab_size"),
        num_heads=heads, num_kv_heads=heads, head_dim=width // heads,
        max_context=c.integer("max_target_positions"), native_dtype=dtype(c), layer_prefix="model.decoder.layers.",
    )  # fmt: skip


def build_mllama(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Some layers attend to the image instead of the text; they cache the image's keys and values."""
    text, v = c.section("text_config"), c.section("vision_config")
    s = sizes(text)
    norms = (*vector("input_layernorm", s.width), *vector("post_attention_layernorm", s.width))
    inner, cache = feed_forward(s.width, s.inner), (attention(s, "full_attention", 0),)
    own = Layer((*gqa(s.width, s.heads, s.kv_heads, s.head_dim), *inner, *norms), cache)
    across = Layer((
        t.plain("cross_attn_attn_gate", 1, suffix=""), t.plain("cross_attn_mlp_gate", 1, suffix=""),
        *gqa(s.width, s.heads, s.kv_heads, s.head_dim, prefix="cross_attn."),
        *vector("cross_attn.q_norm", s.head_dim), *vector("cross_attn.k_norm", s.head_dim), *inner, *norms,
    ), cache)  # fmt: skip
    crossing = set(text.integers("cross_attention_layers"))
    layers = [across if i in crossing else own for i in range(s.layers)]
    model = decoder(
        name,
        task,
        architecture,
        text,
        s,
        layers,
        ropes=rope(text, s),
        outer=c,
        layer_prefix="language_model.model.layers.",
    )
    more = table("model.embed_tokens", s.vocab + 8, s.width)  # eight tokens for images that the head does not know
    projector = matrix("multi_modal_projector", s.width, v.integer("vision_output_dim"), bias=True)
    return replace(model, first=(more, *model.first[1:]), towers=(*_mllama_vision(v), *projector))


def _mllama_vision(v: Config) -> t.Tower:
    width, inner, patch = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("patch_size")
    tokens, tiles = (v.integer("image_size") // patch) ** 2 + 1, v.integer("max_num_tiles", default=4)
    ratios = len(v.raw.get("supported_aspect_ratios") or ()) + 1
    block = (
        *t.separate("", width, bias=False, out="o_proj"),
        *t.mlp2("mlp.", width, inner),
        *t.norms(("input_layernorm", "post_attention_layernorm"), width),
    )
    gates = (t.plain("gate_attn", 1, suffix=""), t.plain("gate_ffn", 1, suffix=""))
    p = "vision_model."
    return (
        t.plain(f"{p}class_embedding", width, suffix=""),
        t.plain(f"{p}patch_embedding", width, 3, patch, patch),
        t.plain(f"{p}gated_positional_embedding.gate", 1, suffix=""),
        t.plain(f"{p}gated_positional_embedding.embedding", tokens, width, suffix=""),
        t.plain(f"{p}gated_positional_embedding.tile_embedding", ratios, tiles * tokens * width),
        *(t.plain(f"{p}{name}_tile_positional_embedding.gate", 1, suffix="") for name in ("pre", "post")),
        *(t.plain(f"{p}{name}_tile_positional_embedding.embedding", ratios, tiles * width) for name in ("pre", "post")),
        *t.norms((f"{p}layernorm_pre", f"{p}layernorm_post"), width),
        *t.stacked(v.integer("num_hidden_layers", most=t.MOST), block, f"{p}transformer.layers."),
        *t.stacked(
            v.integer("num_global_layers", default=8, most=t.MOST), (*gates, *block), f"{p}global_transformer.layers."
        ),
    )


def build_decilm(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Layers found by architecture search: some without attention, each with its own feed-forward width."""
    blocks = c.raw.get("block_configs")
    if not isinstance(blocks, list) or not blocks or len(blocks) > 4096:
        raise ModelError(f"{c.where}: block_configs is missing or no list of layers")
    sections = [Config(block, f"{c.where}: block_configs[{i}]") for i, block in enumerate(blocks)]
    grouped = [
        b.section("attention").integer("n_heads_in_group") for b in sections if not b.section("attention").flag("no_op")
    ]
    heads = c.integer("num_attention_heads")
    s = sizes(c.filled(num_key_value_heads=max(1, heads // min(grouped, default=1)), intermediate_size=1))
    layers = [_decilm_layer(c, s.width, heads, s.head_dim, b) for b in sections]
    widest = max((w.shape[0] for layer in layers for w in layer.weights if w.module == "mlp.gate_proj"), default=1)
    return decoder(name, task, architecture, c, replace(s, inner=widest), layers, ropes=rope(c, s))


def _decilm_layer(c: Config, width: int, heads: int, head_dim: int, block: Config) -> Layer:
    attends, ffn = block.section("attention"), block.section("ffn")
    weights: tuple[Weight, ...] = ()
    caches: tuple[Attention, ...] = ()
    if not attends.flag("no_op"):
        if attends.flag("replace_with_linear") or ffn.flag("replace_with_linear"):
            raise ModelError(f"{block.where}: layers replaced by a linear one are not understood")
        kv_heads = max(1, heads // attends.integer("n_heads_in_group"))
        weights = (
            *gqa(width, heads, kv_heads, head_dim, bias=c.flag("attention_bias")),
            *vector("input_layernorm", width),
        )
        caches = (Attention(kv_heads, head_dim, head_dim),)
    if not ffn.flag("no_op"):
        inner = -(-int(2 * ffn.number("ffn_mult") * width / 3) // 256) * 256
        weights = (*weights, *feed_forward(width, inner), *vector("post_attention_layernorm", width))
    return Layer(weights, caches)


def build_jina(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    layer = Layer((
        *gqa(s.width, s.heads, s.heads, s.head_dim, bias=True, out_bias=True),
        *t.mlp2("mlp.", s.width, s.inner),
        *t.norms(("post_attention_layernorm", "post_mlp_layernorm"), s.width),
    ))  # fmt: skip
    return Model(
        name=name, task=task, architecture=architecture, layers=interned([layer] * s.layers),
        first=(
            table("embeddings.word_embeddings", s.vocab, s.width),
            table("embeddings.token_type_embeddings", c.integer("type_vocab_size", default=1), s.width, "none"),
            *vector("embeddings.LayerNorm", s.width, bias=True),
        ),
        last=matrix("pooler.dense", s.width, s.width, bias=True), towers=(), tied=True,
        hidden_size=s.width, intermediate_size=s.inner, vocab_size=s.vocab, num_heads=s.heads, num_kv_heads=s.heads,
        head_dim=s.head_dim, max_context=s.context - 2, native_dtype=dtype(c), ropes=rope(c, s),
        layer_prefix="layers.", encoder_only=True,
    )  # fmt: skip
