"""Vision and audio encoders with their projectors, as weights. Module names follow the checkpoints."""

from __future__ import annotations

from llmfleet.planner.model.blocks import feed_forward, matrix, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.types import Weight

Tower = tuple[Weight, ...]
MOST = 1024  # layers of a tower


def mlp2(prefix: str, width: int, inner: int, *, bias: bool = True, names: tuple[str, str] = ("fc1", "fc2")) -> Tower:
    return *matrix(prefix + names[0], inner, width, "out", bias=bias), *matrix(
        prefix + names[1], width, inner, "in", bias=bias
    )


def separate(prefix: str, width: int, *, bias: bool = True, out: str = "out_proj") -> Tower:
    """Query, key, value and output projections of full width."""
    parts = (
        w
        for name in ("q_proj", "k_proj", "v_proj")
        for w in matrix(f"{prefix}self_attn.{name}", width, width, "out", bias=bias)
    )
    return *parts, *matrix(f"{prefix}self_attn.{out}", width, width, "in", bias=bias)


def fused(prefix: str, width: int, *, bias: bool = True) -> Tower:
    return *matrix(f"{prefix}attn.qkv", 3 * width, width, "out", bias=bias), *matrix(
        f"{prefix}attn.proj", width, width, "in", bias=bias
    )


def stacked(count: int, weights: Tower, prefix: str) -> Tower:
    """`count` equal blocks, as one weight each with the count as a leading dimension of experts that are all there."""
    return tuple(_numbered(w, i, prefix) for i in range(count) for w in weights)


def _numbered(weight: Weight, index: int, prefix: str) -> Weight:
    return Weight(
        f"{prefix}{index}.{weight.module}", weight.shape, weight.split, linear=weight.linear, suffix=weight.suffix
    )


def plain(name: str, *shape: int, suffix: str = "weight") -> Weight:
    return Weight(name, shape, suffix=suffix)


def norms(names: tuple[str, ...], width: int, *, bias: bool = True) -> Tower:
    return tuple(w for name in names for w in vector(name, width, bias=bias))


def siglip(v: Config, prefix: str = "vision_tower.") -> Tower:
    width, inner = v.integer("hidden_size"), v.integer("intermediate_size")
    patch, patches = v.integer("patch_size"), (v.integer("image_size") // v.integer("patch_size")) ** 2
    block = (*norms(("layer_norm1", "layer_norm2"), width), *separate("", width), *mlp2("mlp.", width, inner))
    return (
        plain(f"{prefix}embeddings.patch_embedding", width, 3, patch, patch),
        plain(f"{prefix}embeddings.patch_embedding", width, suffix="bias"),
        plain(f"{prefix}embeddings.position_embedding", patches, width),
        *stacked(_layers(v), block, f"{prefix}encoder.layers."),
        *norms((f"{prefix}post_layernorm",), width),
    )


def clip(v: Config, prefix: str = "vision_tower.") -> Tower:
    width, inner = v.integer("hidden_size"), v.integer("intermediate_size")
    patch, patches = v.integer("patch_size"), (v.integer("image_size") // v.integer("patch_size")) ** 2
    block = (*norms(("layer_norm1", "layer_norm2"), width), *separate("", width), *mlp2("mlp.", width, inner))
    return (
        plain(f"{prefix}embeddings.class_embedding", width, suffix=""),
        plain(f"{prefix}embeddings.patch_embedding", width, 3, patch, patch),
        plain(f"{prefix}embeddings.position_embedding", patches + 1, width),
        *norms((f"{prefix}pre_layrnorm", f"{prefix}post_layernorm"), width),
        *stacked(_layers(v), block, f"{prefix}encoder.layers."),
    )


def pixtral(v: Config, prefix: str = "vision_tower.") -> Tower:
    width, inner, patch = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("patch_size")
    block = (
        *norms(("attention_norm", "ffn_norm"), width, bias=False),
        *feed_forward(width, inner, prefix="feed_forward."),
        *(w for name in ("q_proj", "k_proj", "v_proj") for w in matrix(f"attention.{name}", width, width, "out")),
        *matrix("attention.o_proj", width, width, "in"),
    )
    return (
        plain(f"{prefix}patch_conv", width, 3, patch, patch),
        *norms((f"{prefix}ln_pre",), width, bias=False),
        *stacked(_layers(v), block, f"{prefix}transformer.layers."),
    )


def qwen2_vl(v: Config, prefix: str = "visual.") -> Tower:
    width, out = v.integer("embed_dim"), v.integer("hidden_size")
    inner = int(width * v.number("mlp_ratio", default=4))
    block = (*norms(("norm1", "norm2"), width), *fused("", width), *mlp2("mlp.", width, inner))
    return (
        _patches(v, prefix, width),
        *stacked(_depth(v), block, f"{prefix}blocks."),
        *norms((f"{prefix}merger.ln_q",), width),
        *_merger(f"{prefix}merger.mlp.", width * _merged(v), out, ("0", "2")),
    )


def qwen2_5_vl(v: Config, prefix: str = "visual.") -> Tower:
    width, inner, out = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("out_hidden_size")
    block = (*norms(("norm1", "norm2"), width, bias=False), *fused("", width), *feed_forward(width, inner, bias=True))
    return (
        _patches(v, prefix, width),
        *stacked(_depth(v), block, f"{prefix}blocks."),
        *norms((f"{prefix}merger.ln_q",), width, bias=False),
        *_merger(f"{prefix}merger.mlp.", width * _merged(v), out, ("0", "2")),
    )


def qwen3_vl(v: Config, prefix: str = "visual.") -> Tower:
    """With a merger of its own for each layer whose output is mixed into the decoder."""
    width, inner, out = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("out_hidden_size")
    merged, names = width * _merged(v), ("linear_fc1", "linear_fc2")
    block = (*norms(("norm1", "norm2"), width), *fused("", width), *mlp2("mlp.", width, inner, names=names))
    deep = (*norms(("norm",), merged), *_merger("", merged, out, names))
    return (
        _patches(v, prefix, width),
        plain(f"{prefix}patch_embed.proj", width, suffix="bias"),
        plain(f"{prefix}pos_embed", v.integer("num_position_embeddings", default=2304), width),
        *stacked(_depth(v), block, f"{prefix}blocks."),
        *norms((f"{prefix}merger.norm",), width),
        *_merger(f"{prefix}merger.", merged, out, names),
        *stacked(len(v.integers("deepstack_visual_indexes")), deep, f"{prefix}deepstack_merger_list."),
    )


def glm4v(v: Config, prefix: str = "visual.") -> Tower:
    width, out, merge = (
        v.integer("hidden_size"),
        v.integer("out_hidden_size"),
        v.integer("spatial_merge_size", default=2),
    )
    patch, inner = v.integer("patch_size"), v.integer("intermediate_size")
    block = (
        *norms(("norm1", "norm2"), width, bias=False),
        *fused("", width, bias=v.flag("attention_bias")),
        *feed_forward(width, out),
    )
    return (
        plain(f"{prefix}embeddings.position_embedding", (v.integer("image_size") // patch) ** 2, width),
        _patches(v, prefix, width),
        plain(f"{prefix}patch_embed.proj", width, suffix="bias"),
        *stacked(_depth(v), block, f"{prefix}blocks."),
        *matrix(f"{prefix}merger.proj", out, out),
        *norms((f"{prefix}merger.post_projection_norm",), out),
        *feed_forward(out, inner, prefix=f"{prefix}merger."),
        *norms((f"{prefix}post_conv_layernorm", f"{prefix}post_layernorm"), width, bias=False),
        plain(f"{prefix}downsample", out, width, merge, merge),
        plain(f"{prefix}downsample", out, suffix="bias"),
    )


def intern_vit(v: Config, prefix: str = "vision_tower.") -> Tower:
    width, inner = v.integer("hidden_size"), v.integer("intermediate_size")
    image, patch = _square(v, "image_size"), _square(v, "patch_size")
    attention = (
        w
        for name in ("q_proj", "k_proj", "v_proj")
        for w in matrix(f"attention.{name}", width, width, "out", bias=v.flag("attention_bias"))
    )
    block = (
        plain("lambda_1", width, suffix=""),
        plain("lambda_2", width, suffix=""),
        *attention,
        *matrix("attention.projection_layer", width, width, "in", bias=True),
        *mlp2("mlp.", width, inner),
        *norms(("layernorm_before", "layernorm_after"), width),
    )
    return (
        plain(f"{prefix}embeddings.cls_token", 1, 1, width, suffix=""),
        plain(f"{prefix}embeddings.position_embeddings", 1, (image // patch) ** 2 + 1, width, suffix=""),
        plain(f"{prefix}embeddings.patch_embeddings.projection", width, 3, patch, patch),
        plain(f"{prefix}embeddings.patch_embeddings.projection", width, suffix="bias"),
        *stacked(_layers(v), block, f"{prefix}encoder.layer."),
    )


def llama4_vision(v: Config, prefix: str = "vision_model.") -> Tower:
    width, inner, patch = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("patch_size")
    block = (
        *separate("", width, out="o_proj"),
        *mlp2("mlp.", width, inner),
        *norms(("input_layernorm", "post_attention_layernorm"), width),
    )
    merged = int(width / v.number("pixel_shuffle_ratio", default=0.5) ** 2)
    adapter = v.integer("projector_input_dim")
    return (
        plain(f"{prefix}class_embedding", width, suffix=""),
        plain(f"{prefix}positional_embedding_vlm", (v.integer("image_size") // patch) ** 2 + 1, width, suffix=""),
        *matrix(f"{prefix}patch_embedding.linear", width, 3 * patch * patch, "out"),
        *norms((f"{prefix}layernorm_pre", f"{prefix}layernorm_post"), width),
        *stacked(_layers(v), block, f"{prefix}model.layers."),
        *matrix(f"{prefix}vision_adapter.mlp.fc1", adapter, merged, "out"),
        *matrix(f"{prefix}vision_adapter.mlp.fc2", v.integer("projector_output_dim"), adapter, "in"),
    )


def moonvit(v: Config, prefix: str = "vision_tower.") -> Tower:
    width, inner = v.integer("hidden_size", "vt_hidden_size"), v.integer("intermediate_size", "vt_intermediate_size")
    patch, grid = v.integer("patch_size"), (v.integer("init_pos_emb_height"), v.integer("init_pos_emb_width"))
    block = (
        *norms(("norm0", "norm1"), width),
        *matrix("wqkv", 3 * width, width, "out", bias=True),
        *matrix("wo", width, width, "in", bias=True),
        *mlp2("mlp.", width, inner, names=("fc0", "fc1")),
    )
    return (
        plain(f"{prefix}patch_embed.proj", width, 3, patch, patch),
        plain(f"{prefix}patch_embed.proj", width, suffix="bias"),
        plain(f"{prefix}patch_embed.pos_emb", *grid, width),
        *stacked(v.integer("num_hidden_layers", "vt_num_hidden_layers", most=MOST), block, f"{prefix}encoder.blocks."),
        *norms((f"{prefix}encoder.final_layernorm",), width),
    )


def gemma4_vision(v: Config, prefix: str = "vision_tower.") -> Tower:
    width, inner, dim = v.integer("hidden_size"), v.integer("intermediate_size"), v.integer("head_dim")
    names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    block = (
        *separate("", width, bias=False, out="o_proj"),
        *norms(("self_attn.q_norm", "self_attn.k_norm"), dim, bias=False),
        *feed_forward(width, inner),
        *norms(names, width, bias=False),
    )
    return (
        plain(
            f"{prefix}patch_embedder.position_embedding_table",
            2,
            v.integer("position_embedding_size"),
            width,
            suffix="",
        ),
        *matrix(f"{prefix}patch_embedder.input_proj", width, 3 * v.integer("patch_size") ** 2),
        *stacked(_layers(v), block, f"{prefix}encoder.layers."),
        *(
            (plain(f"{prefix}std_bias", width, suffix=""), plain(f"{prefix}std_scale", width, suffix=""))
            if v.flag("standardize")
            else ()
        ),
    )


def gemma4_audio(a: Config, out: int, prefix: str = "audio_tower.") -> Tower:
    width, kernel = a.integer("hidden_size"), a.integer("conv_kernel_size")
    c0, c1 = a.integers("subsampling_conv_channels") or (128, 32)
    block = (
        *_forward("feed_forward1", width),
        *_forward("feed_forward2", width),
        plain("self_attn.per_dim_scale", width // a.integer("num_attention_heads"), suffix=""),
        *(
            w
            for name in ("q_proj", "k_proj", "v_proj", "post", "relative_k_proj")
            for w in matrix(f"self_attn.{name}", width, width)
        ),
        *matrix("lconv1d.linear_start", 2 * width, width),
        *matrix("lconv1d.linear_end", width, width),
        plain("lconv1d.depthwise_conv1d", width, 1, kernel),
        *norms(
            ("lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm_pre_attn", "norm_post_attn", "norm_out"),
            width,
            bias=False,
        ),
    )
    return (
        plain(f"{prefix}subsample_conv_projection.layer0.conv", c0, 1, 3, 3),
        plain(f"{prefix}subsample_conv_projection.layer0.norm", c0),
        plain(f"{prefix}subsample_conv_projection.layer1.conv", c1, c0, 3, 3),
        plain(f"{prefix}subsample_conv_projection.layer1.norm", c1),
        *matrix(f"{prefix}subsample_conv_projection.input_proj_linear", width, 32 * c1),
        *stacked(_layers(a), block, f"{prefix}layers."),
        *matrix(f"{prefix}output_proj", out, width, bias=True),
    )


def _forward(name: str, width: int) -> Tower:
    return (
        *matrix(f"{name}.ffw_layer_1", 4 * width, width, "out"),
        *matrix(f"{name}.ffw_layer_2", width, 4 * width, "in"),
        *norms((f"{name}.pre_layer_norm", f"{name}.post_layer_norm"), width, bias=False),
    )


def whisper_encoder(a: Config, prefix: str = "audio_tower.", *, positions: bool = True) -> Tower:
    width, inner = a.integer("d_model"), a.integer("encoder_ffn_dim")
    block = (
        *whisper_attention("self_attn", width),
        *mlp2("", width, inner),
        *norms(("self_attn_layer_norm", "final_layer_norm"), width),
    )
    return (
        plain(f"{prefix}conv1", width, a.integer("num_mel_bins"), 3),
        plain(f"{prefix}conv1", width, suffix="bias"),
        plain(f"{prefix}conv2", width, width, 3),
        plain(f"{prefix}conv2", width, suffix="bias"),
        *((plain(f"{prefix}embed_positions", a.integer("max_source_positions"), width),) if positions else ()),
        *stacked(a.integer("encoder_layers", most=MOST), block, f"{prefix}layers."),
    )


def whisper_attention(name: str, width: int) -> Tower:
    """Keys have no bias."""
    return (
        *matrix(f"{name}.q_proj", width, width, "out", bias=True),
        *matrix(f"{name}.k_proj", width, width, "out"),
        *matrix(f"{name}.v_proj", width, width, "out", bias=True),
        *matrix(f"{name}.out_proj", width, width, "in", bias=True),
    )


def _patches(v: Config, prefix: str, width: int) -> Weight:
    size = v.integer("patch_size")
    return plain(
        f"{prefix}patch_embed.proj",
        width,
        v.integer("in_channels", "in_chans", default=3),
        v.integer("temporal_patch_size", default=2),
        size,
        size,
    )


def _merger(prefix: str, merged: int, out: int, names: tuple[str, str]) -> Tower:
    return (
        *matrix(prefix + names[0], merged, merged, "out", bias=True),
        *matrix(prefix + names[1], out, merged, "in", bias=True),
    )


def _merged(v: Config) -> int:
    return v.integer("spatial_merge_size", default=2) ** 2


def _layers(v: Config) -> int:
    return v.integer("num_hidden_layers", most=MOST)


def _depth(v: Config) -> int:
    return v.integer("depth", most=MOST)


def _square(v: Config, key: str) -> int:
    """A size that may be given as one number or as height and width."""
    sides = v.raw.get(key)
    return v.integers(key)[0] if isinstance(sides, list) and sides else v.integer(key)
