"""Models of a text decoder with encoders for images or sound before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import matrix, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families import towers as t
from llmfleet.planner.model.families.common import dtype
from llmfleet.planner.model.families.towers import Tower
from llmfleet.planner.model.types import Model, Rope

TEXT: dict[str, tuple[str, str]] = {
    "llama": ("LlamaForCausalLM", "dense:build"),
    "mistral": ("MistralForCausalLM", "dense:build"),
    "ministral3": ("Ministral3ForCausalLM", "dense:build"),
    "glm4v_text": ("Glm4ForCausalLM", "dense:build"),
    "internlm2": ("InternLM2ForCausalLM", "dense:build"),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "moe:build"),
    "gpt_oss": ("GptOssForCausalLM", "moe:build_gpt_oss"),
    "phi3": ("Phi3ForCausalLM", "dense:build"),
    "granite": ("GraniteForCausalLM", "dense:build"),
    "qwen2": ("Qwen2ForCausalLM", "dense:build"),
    "qwen3": ("Qwen3ForCausalLM", "dense:build"),
    "qwen3_vl_text": ("Qwen3ForCausalLM", "dense:build"),
    "qwen3_vl_moe_text": ("Qwen3MoeForCausalLM", "moe:build"),
    "qwen2_vl": ("Qwen2ForCausalLM", "dense:build"),
    "qwen2_5_vl": ("Qwen2ForCausalLM", "dense:build"),
    "qwen2_vl_text": ("Qwen2ForCausalLM", "dense:build"),
    "qwen2_5_vl_text": ("Qwen2ForCausalLM", "dense:build"),
    "qwen2_5_omni_text": ("Qwen2ForCausalLM", "dense:build"),
    "qwen3_5_text": ("Qwen3_5ForCausalLM", "hybrid:build_qwen"),
    "qwen3_5_moe_text": ("Qwen3_5MoeForCausalLM", "hybrid:build_qwen"),
    "gemma3_text": ("Gemma3ForCausalLM", "dense:build"),
    "gemma4_text": ("Gemma4ForCausalLM", "gemma4:build"),
    "gemma4_unified_text": ("Gemma4ForCausalLM", "gemma4:build"),
    "llama4_text": ("Llama4ForCausalLM", "llama4:build"),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "latent:build"),
    "kimi_k2": ("DeepseekV3ForCausalLM", "latent:build"),
    "glm4v_moe_text": ("Glm4MoeForCausalLM", "moe:build"),
}
# Qwen's and GLM's vision models have positions in time, height and width (rotary_embedding/mrope.py).
VIDEO: tuple[tuple[tuple[str, ...], Literal["always", "at first"]], ...] = (
    (("Qwen2VL", "Qwen2_5_VL", "Qwen2_5Omni", "Glm4v"), "always"),
    (("Qwen3VL", "Qwen3_5"), "at first"),
)
LARGEST_IMAGE = 16384  # tokens, from the pixels that the image processors of Qwen's vision models take at most
QWEN = ("Qwen2VL", "Qwen2_5_VL", "Qwen2_5Omni", "Qwen3VL", "Qwen3_5")
# Sizes that a text_config may leave out: the defaults of its class in transformers.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
              "max_position_embeddings": 4096, "vocab_size": 32000},
    "gemma3_text": {"vocab_size": 262208, "max_position_embeddings": 131072, "num_attention_heads": 8,
                    "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "mistral": {"head_dim": 128},
    "glm4v_text": {"attention_bias": True},
}  # fmt: skip


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    c = c.section("thinker_config") if "thinker_config" in c else c
    text = _text(c)
    kind = text.text("model_type")
    if kind not in TEXT:
        raise ModelError(
            f"{text.where}: the text model {kind} is not understood", hint=f"Known are {', '.join(sorted(TEXT))}."
        )
    inner, entry = TEXT[kind]
    module, function = entry.split(":")
    model: Model = getattr(import_module(f"llmfleet.planner.model.families.{module}"), function)(
        name, task, inner, text
    )
    return replace(
        model, architecture=architecture, native_dtype=dtype(c, text), layer_prefix="model.language_model.layers.",
        ropes=_ropes(model, architecture),
        towers=TOWERS[architecture](c, model.hidden_size), whole_towers=_mistral_format(name, architecture),
        image_tokens=LARGEST_IMAGE if architecture.startswith(QWEN) else 0,
        deepstack=_deepstack(c) if architecture.startswith("Qwen3VL") else 0,
        token_buffer=_per_layer_inputs(text) if architecture == "Gemma4ForConditionalGeneration" else 0,
    )  # fmt: skip


def _deepstack(c: Config) -> int:
    return len(_vision(c).integers("deepstack_visual_indexes"))


def _per_layer_inputs(text: Config) -> int:
    """Of all layers: what Gemma 4 keeps of the batch at hand (gemma4_mm.py: per_layer_embeddings)."""
    return text.integer("num_hidden_layers") * text.integer("hidden_size_per_layer_input", least=0, default=0)


def _ropes(model: Model, architecture: str) -> tuple[Rope, ...]:
    video = next((kind for names, kind in VIDEO if architecture.startswith(names)), None)
    return tuple(replace(rope, video=video) for rope in model.ropes) if video else model.ropes


def _mistral_format(name: str, architecture: str) -> bool:
    """Mistral's own repositories carry params.json; vLLM then takes its Pixtral model, whose encoder is not cut."""
    return architecture == "Mistral3ForConditionalGeneration" and "mistralai" in name


def _text(c: Config) -> Config:
    """The decoder's facts: in a section of their own, or for older Qwen-VL files at the top."""
    if "llm_config" in c:
        return c.section("llm_config")
    if "text_config" not in c:
        return c
    section = c.section("text_config")
    kind = section.raw.get("model_type")
    defaults = DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}
    tied = c.raw.get("tie_word_embeddings")
    return section.filled(**defaults, **({"tie_word_embeddings": tied} if isinstance(tied, bool) else {}))


def _vision(c: Config) -> Config:
    return c.section("vision_config")


def _two_layers(prefix: str, inner: int, out: int, *, bias: bool = True) -> Tower:
    return *matrix(f"{prefix}linear_1", out, inner, "out", bias=bias), *matrix(
        f"{prefix}linear_2", out, out, "in", bias=bias
    )


def _gemma3(c: Config, width: int) -> Tower:
    v = _vision(c)
    size = v.integer("hidden_size")
    return (
        *t.siglip(v),
        t.plain("multi_modal_projector.mm_input_projection_weight", size, width),
        *vector("multi_modal_projector.mm_soft_emb_norm", size),
    )


def _llava(c: Config, width: int) -> Tower:
    v = _vision(c)
    kind = v.text("model_type", default="clip_vision_model")
    tower = LLAVA_TOWERS.get(kind)
    if tower is None:
        raise ModelError(f"{v.where}: the encoder {kind} is not understood; known are {', '.join(LLAVA_TOWERS)}")
    bias = c.flag("multimodal_projector_bias", default=True)
    return *tower(v), *_two_layers("multi_modal_projector.", v.integer("hidden_size"), width, bias=bias)


def _idefics3(c: Config, width: int) -> Tower:
    """SmolVLM too: images are shuffled into fewer, wider tokens."""
    v = _vision(c)
    shuffled = v.integer("hidden_size") * c.integer("scale_factor", default=2) ** 2
    return *t.siglip(v, "model.vision_model."), *matrix("model.connector.modality_projection.proj", width, shuffled)


def _intern_chat(c: Config, width: int) -> Tower:
    """OpenGVLab's own files of the same encoder, with queries, keys and values in one matrix."""
    v = _vision(c)
    if v.flag("qk_normalization") or v.text("norm_type", default="layer_norm") != "layer_norm":
        raise ModelError(f"{v.where}: InternViT with normalized queries or RMS norms (6B) is not understood")
    merged = int(v.integer("hidden_size") / c.number("downsample_ratio", default=0.5) ** 2)
    projector = (*matrix("mlp1.1", width, merged, "out", bias=True), *matrix("mlp1.3", width, width, "in", bias=True))
    tower = t.intern_vit(v.filled(attention_bias=v.flag("qkv_bias", default=True)))
    return *tower, *vector("mlp1.0", merged, bias=True), *projector


def _llava_next(c: Config, width: int) -> Tower:
    v = _vision(c)
    picked = c.raw.get("vision_feature_layer")
    layers = len(picked) if isinstance(picked, list) else 1
    tower = t.siglip(v) if v.text("model_type", default="clip_vision_model").startswith("siglip") else t.clip(v)
    return (
        t.plain("image_newline", width, suffix=""),
        *tower,
        *_two_layers(
            "multi_modal_projector.",
            v.integer("hidden_size") * layers,
            width,
            bias=c.flag("multimodal_projector_bias", default=True),
        ),
    )


def _mistral3(c: Config, width: int) -> Tower:
    v = _vision(c)
    size, merge = v.integer("hidden_size"), c.integer("spatial_merge_size", default=2)
    return (
        *t.pixtral(v),
        *vector("multi_modal_projector.norm", size),
        *matrix("multi_modal_projector.patch_merger.merging_layer", size, size * merge * merge),
        *_two_layers("multi_modal_projector.", size, width, bias=c.flag("multimodal_projector_bias")),
    )


def _intern(c: Config, width: int) -> Tower:
    v = _vision(c)
    merged = int(v.integer("hidden_size") / c.number("downsample_ratio", default=0.5) ** 2)
    return (
        *t.intern_vit(v),
        *vector("multi_modal_projector.layer_norm", merged, bias=True),
        *_two_layers("multi_modal_projector.", merged, width),
    )


def _llama4(c: Config, width: int) -> Tower:
    v = _vision(c)
    return *t.llama4_vision(v), *matrix("multi_modal_projector.linear_1", width, v.integer("vision_output_dim"))


def _kimi(c: Config, width: int) -> Tower:
    v = _vision(c)
    size = v.integer("hidden_size", "vt_hidden_size")
    kernel = v.integers("merge_kernel_size") or (2, 2)
    merged = size * kernel[0] * kernel[-1]
    return (
        *t.moonvit(v),
        *vector("multi_modal_projector.pre_norm", size, bias=True),
        *matrix("multi_modal_projector.linear_1", merged, merged, bias=True),
        *matrix("multi_modal_projector.linear_2", width, merged, bias=True),
    )


def _gemma4(c: Config, width: int) -> Tower:
    v, a = _vision(c), c.section("audio_config")
    sound = ()  # type: Tower
    if a.raw:
        out = a.integer("output_proj_dims")
        sound = (*t.gemma4_audio(a, out), *matrix("embed_audio.embedding_projection", width, out))
    return *t.gemma4_vision(v), *matrix("embed_vision.embedding_projection", width, v.integer("hidden_size")), *sound


def _gemma4_unified(c: Config, width: int) -> Tower:
    """No encoders: patches of an image and frames of sound go into the decoder through a few matrices."""
    v, sound = _vision(c), c.section("audio_config").integer("output_proj_dims")
    size, pixels = v.integer("mm_embed_dim"), 3 * v.integer("model_patch_size") ** 2
    p = "vision_embedder."
    return (
        *t.norms((f"{p}patch_ln1",), pixels),
        *matrix(f"{p}patch_dense", size, pixels, "out", bias=True),
        *t.norms((f"{p}patch_ln2", f"{p}pos_norm"), size),
        t.plain(f"{p}pos_embedding", v.integer("mm_posemb_size"), 2, size, suffix=""),
        *matrix("embed_vision.embedding_projection", width, v.integer("output_proj_dims")),
        *matrix("embed_audio.embedding_projection", width, sound),
    )


def _qwen2_audio(c: Config, width: int) -> Tower:
    a = c.section("audio_config")
    size = a.integer("d_model")
    return (
        *t.whisper_encoder(a),
        *vector("audio_tower.layer_norm", size, bias=True),
        *matrix("multi_modal_projector.linear", width, size, bias=True),
    )


def _omni(c: Config, _: int) -> Tower:
    a = c.section("audio_config")
    size = a.integer("d_model")
    sound = (
        *t.whisper_encoder(a, positions=False),
        t.plain("audio_tower.audio_bos_eos_token", 2, a.integer("output_dim")),
        *vector("audio_tower.ln_post", size, bias=True),
        *matrix("audio_tower.proj", a.integer("output_dim"), size, bias=True),
    )
    return *t.qwen2_5_vl(_vision(c)), *sound


LLAVA_TOWERS: dict[str, Callable[[Config], Tower]] = {
    "clip_vision_model": t.clip, "siglip_vision_model": t.siglip, "pixtral": t.pixtral,
}  # fmt: skip
TOWERS: dict[str, Callable[[Config, int], Tower]] = {
    "Gemma3ForConditionalGeneration": _gemma3,
    "Gemma4ForConditionalGeneration": _gemma4,
    "Gemma4UnifiedForConditionalGeneration": _gemma4_unified,
    "LlavaForConditionalGeneration": _llava,
    "LlavaNextForConditionalGeneration": _llava_next,
    "Mistral3ForConditionalGeneration": _mistral3,
    "InternVLForConditionalGeneration": _intern,
    "Llama4ForConditionalGeneration": _llama4,
    "KimiVLForConditionalGeneration": _kimi,
    "KimiK25ForConditionalGeneration": _kimi,
    "Qwen2VLForConditionalGeneration": lambda c, _: t.qwen2_vl(_vision(c)),
    "Qwen2_5_VLForConditionalGeneration": lambda c, _: t.qwen2_5_vl(_vision(c)),
    "Qwen3VLForConditionalGeneration": lambda c, _: t.qwen3_vl(_vision(c)),
    "Qwen3VLMoeForConditionalGeneration": lambda c, _: t.qwen3_vl(_vision(c)),
    "Qwen3_5ForConditionalGeneration": lambda c, _: t.qwen3_vl(_vision(c)),
    "Qwen3_5MoeForConditionalGeneration": lambda c, _: t.qwen3_vl(_vision(c)),
    "Glm4vForConditionalGeneration": lambda c, _: t.glm4v(_vision(c)),
    "Glm4vMoeForConditionalGeneration": lambda c, _: t.glm4v(_vision(c)),
    "Idefics3ForConditionalGeneration": _idefics3,
    "SmolVLMForConditionalGeneration": _idefics3,
    "InternVLChatModel": _intern_chat,
    "Qwen2AudioForConditionalGeneration": _qwen2_audio,
    "Qwen2_5OmniModel": _omni,
    "Qwen2_5OmniForConditionalGeneration": _omni,
}
