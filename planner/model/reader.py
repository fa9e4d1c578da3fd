"""From the text or the object of a config.json to a Model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.types import Model, Weight

CLASSIFIER = "ForSequenceClassification"
Builder = Callable[[str, Task, str, Config], Model]
DENSE = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "GraniteForCausalLM",
    "AquilaForCausalLM",
    "InternLM3ForCausalLM",
    "SmolLM3ForCausalLM",
    "SeedOssForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "MiMoForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GemmaForCausalLM",
    "Phi3ForCausalLM",
    "Exaone4ForCausalLM",
    "Olmo2ForCausalLM",
    "Olmo3ForCausalLM",
    "Glm4ForCausalLM",
    "Starcoder2ForCausalLM",
    "StableLmForCausalLM",
    "ArceeForCausalLM",
    "CohereForCausalLM",
    "Cohere2ForCausalLM",
    "GlmForCausalLM",
    "NemotronForCausalLM",
    "Ernie4_5ForCausalLM",
    "HunYuanDenseV1ForCausalLM",
    "OlmoForCausalLM",
    "ApertusForCausalLM",
    "HeliumForCausalLM",
    "Ministral3ForCausalLM",
    "SolarForCausalLM",
    "YiForCausalLM",
    "XverseForCausalLM",
    "OrionForCausalLM",
    "MiniCPMForCausalLM",
    "InternLMForCausalLM",
    "InternLM2ForCausalLM",
    "BaichuanForCausalLM",
    "BaiChuanForCausalLM",
    "ExaoneForCausalLM",
)
MOE = (
    "MixtralForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
    "PhiMoEForCausalLM",
    "MiniMaxM2ForCausalLM",
    "Glm4MoeForCausalLM",
    "OlmoeForCausalLM",
    "Dots1ForCausalLM",
)
LATENT = (
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV32ForCausalLM",
    "GlmMoeDsaForCausalLM",
    "Glm4MoeLiteForCausalLM",
)
MULTIMODAL = (
    "Gemma3ForConditionalGeneration",
    "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "Llama4ForConditionalGeneration",
    "KimiVLForConditionalGeneration",
    "KimiK25ForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "Glm4vForConditionalGeneration",
    "Glm4vMoeForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
    "InternVLChatModel",
    "Qwen2AudioForConditionalGeneration",
    "Qwen2_5OmniModel",
    "Qwen2_5OmniForConditionalGeneration",
)
ENCODERS = (
    "BertModel",
    "BertForSequenceClassification",
    "RobertaModel",
    "RobertaForSequenceClassification",
    "XLMRobertaModel",
    "XLMRobertaForSequenceClassification",
)
# Architecture: module and function in families/. A module is imported when a model needs it.
BUILDERS: dict[str, str] = {
    **dict.fromkeys(DENSE, "dense:build"),
    **dict.fromkeys(MOE, "moe:build"),
    "GraniteMoeForCausalLM": "moe:build_granite",
    "GptOssForCausalLM": "moe:build_gpt_oss",
    "LagunaForCausalLM": "moe:build_laguna",
    **dict.fromkeys(LATENT, "latent:build"),
    "Qwen3NextForCausalLM": "hybrid:build_qwen",
    "Qwen3_5ForCausalLM": "hybrid:build_qwen",
    "Qwen3_5MoeForCausalLM": "hybrid:build_qwen",
    "NemotronHForCausalLM": "hybrid:build_nemotron",
    "MiMoV2FlashForCausalLM": "mimo:build",
    "JambaForCausalLM": "recurrent:build_jamba",
    "KimiLinearForCausalLM": "recurrent:build_kimi",
    "Gemma4ForCausalLM": "gemma4:build",
    "Llama4ForCausalLM": "llama4:build",
    **dict.fromkeys(MULTIMODAL, "multimodal:build"),
    "OPTForCausalLM": "legacy:build_opt",
    "MptForCausalLM": "legacy:build_mpt",
    "MPTForCausalLM": "legacy:build_mpt",
    "PhiForCausalLM": "legacy:build_phi",
    "QWenLMHeadModel": "legacy:build_qwen1",
    "WhisperForConditionalGeneration": "legacy:build_whisper",
    "MllamaForConditionalGeneration": "legacy:build_mllama",
    "DeciLMForCausalLM": "legacy:build_decilm",
    "JinaEmbeddingsV3Model": "legacy:build_jina",
    **dict.fromkeys(("GPT2LMHeadModel", "GPTBigCodeForCausalLM"), "older:build_gpt2"),
    "GPTJForCausalLM": "older:build_gptj",
    "GPTNeoXForCausalLM": "older:build_gpt_neox",
    "BloomForCausalLM": "older:build_bloom",
    **dict.fromkeys(("FalconForCausalLM", "RWForCausalLM"), "older:build_falcon"),
    **dict.fromkeys(("ChatGLMModel", "ChatGLMForConditionalGeneration"), "older:build_chatglm"),
    **dict.fromkeys(("GraniteMoeHybridForCausalLM", "GraniteMoeSharedForCausalLM"), "mixed:build_granite"),
    "BambaForCausalLM": "mixed:build_bamba",
    "FalconH1ForCausalLM": "mixed:build_falcon_h1",
    "Mamba2ForCausalLM": "mixed:build_mamba2",
    **dict.fromkeys(("Lfm2ForCausalLM", "Lfm2MoeForCausalLM"), "mixed:build_lfm2"),
    "Ernie4_5_MoeForCausalLM": "shared:build_ernie",
    "HunYuanMoEV1ForCausalLM": "shared:build_hunyuan",
    "DbrxForCausalLM": "shared:build_dbrx",
    **dict.fromkeys(("ModernBertModel", "ModernBertForSequenceClassification"), "encoder:build_modern"),
    "NomicBertModel": "encoder:build_nomic",
    **dict.fromkeys(ENCODERS, "encoder:build"),
}


def builder(architecture: str) -> Builder | None:
    entry = BUILDERS.get(architecture)
    if entry is None:
        return None
    module, function = entry.split(":")
    found: Builder = getattr(import_module(f"llmfleet.planner.model.families.{module}"), function)
    return found


def model_from_config(
    raw: Mapping[str, Any], *, name: str, task: Task | None = None, where: str = "config.json"
) -> Model:
    """Raises ModelError: what is missing, wrong, or not understood."""
    c = Config(raw, where)
    given = _architecture(c)
    architecture = given if given in BUILDERS else _decoder_of(given)
    build = builder(architecture)
    if build is None:
        raise _unknown(where, given)
    model = build(name, task or _task(given), architecture, c)
    if architecture != given and given.endswith(CLASSIFIER):
        model = replace(model, last=(*model.last, *_score(c, model.hidden_size)))
    quantized = _quantization(c)
    if not quantized:
        return model
    from llmfleet.planner.model.quantization import with_native_format

    return with_native_format(model, quantized, where)


def _decoder_of(architecture: str) -> str:
    """The decoder that a model without its head, or with a classifier in its place, is made of."""
    for ending in ("TextModel", "Model", CLASSIFIER):
        found = architecture.removesuffix(ending) + "ForCausalLM"
        if architecture.endswith(ending) and found in BUILDERS:
            return found
    return architecture


def _score(c: Config, width: int) -> tuple[Weight, ...]:
    labels = c.integer("num_labels", default=max(1, len(c.section("id2label").raw)))
    return (Weight("score", (labels, width)),)


def _quantization(c: Config) -> Mapping[str, Any]:
    """The checkpoint's own method, at the top of the file or beside the text model's facts."""
    for section in (c, c.section("text_config")):
        for key in ("quantization_config", "compression_config"):
            if section.raw.get(key):
                return section.section(key).raw
    return {}


def _architecture(c: Config) -> str:
    names = c.names("architectures")
    if not names:
        raise ModelError(f"{c.where}: architectures is missing, so the model's structure is not known")
    return names[0]


def _task(architecture: str) -> Task:
    if architecture.endswith(CLASSIFIER):
        return "rerank"
    heads = ("LMHeadModel", "OmniModel", "ChatGLMModel", "ChatModel")
    return "embed" if architecture.endswith("Model") and not architecture.endswith(heads) else "generate"


def _unknown(where: str, architecture: str) -> ModelError:
    from difflib import get_close_matches

    near = get_close_matches(architecture, BUILDERS, n=3)
    hint = (
        f"Nearest known: {', '.join(near)}."
        if near
        else "Its weights and caches are not described in planner/model/families."
    )
    return ModelError(
        f"{where}: the architecture {architecture} is not understood: its tensors and KV layout are not known",
        hint=hint,
    )
