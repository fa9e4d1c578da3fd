"""Published scenarios, each with the tolerance that counts as agreement."""

from __future__ import annotations

import pytest

from llmfleet.planner.catalog import catalog
from llmfleet.planner.figures import Expected
from llmfleet.planner.memory.estimate import estimate as budget
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model.reader import model_from_config
from llmfleet.planner.speed.estimate import most_sequences, seen
from llmfleet.planner.speed.instance import Load, instance_speed
from llmfleet.planner.speed.request import Request

LLAMA_30B = model_from_config(
    {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 6656, "intermediate_size": 17920, "vocab_size": 32000,
        "num_hidden_layers": 60, "num_attention_heads": 52, "max_position_embeddings": 2048, "torch_dtype": "float16",
    },
    name="llama-30b",
)  # fmt: skip


def speed(model: str, gpu: str, tp: int, load: Load, **options: object) -> Expected:
    found = catalog().model(model)
    assert found is not None
    return instance_speed(found, catalog().gpu(gpu), Shape(tp), EngineOptions(**options), load)  # type: ignore[arg-type]


def pipeline_tokens_per_s(gpu: str, layers: tuple[int, ...]) -> float:
    """Offline: as many at once as the cache holds, over 10 Gb/s between nodes; 763 tokens in, 232 out."""
    card, shape = catalog().gpu(gpu), Shape(pp=len(layers), pp_partition=layers)
    memory = budget(LLAMA_30B, card, shape, EngineOptions(max_model_len=2048, max_num_batched_tokens=2048))
    assert memory.kv is not None
    held = float(memory.kv.tokens)
    return seen(
        LLAMA_30B, card, shape, "fp16", input_len=763, output_len=232, kv_tokens=held, nic_bits_s=10e9,
        concurrency=most_sequences(Request(763, 232), held, 256), max_num_batched_tokens=2048, version=(0, 4, 0),
    ).tokens_per_s  # fmt: skip


def test_pipelines_of_one_kind_of_gpu_each() -> None:
    """Helix (ASPLOS 2025), LLaMA-30B on 4 A100, 8 L4, 12 T4: 187.3, 58.6 and 49.2 tokens/s."""
    a100 = pipeline_tokens_per_s("A100-40G", (15,) * 4)
    assert pipeline_tokens_per_s("L4", (7,) * 4 + (8,) * 4) / a100 == pytest.approx(58.6 / 187.3, rel=0.25)
    assert pipeline_tokens_per_s("T4", (5,) * 12) / a100 == pytest.approx(49.2 / 187.3, rel=0.25)


@pytest.mark.parametrize("model", ["meta-llama/Meta-Llama-3-8B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"])
def test_tensor_parallelism_over_pcie_without_peer_access_gains_nothing(model: str) -> None:
    """IOG's ShareGPT runs on 1 to 8 RTX 4090: up to 14 B, more cards did no more, and one H100 PCIe beat eight."""

    def most(gpu: str, tp: int) -> float:
        load = Load(206, 205, rate=32)
        return speed(model, gpu, tp, load, version="0.8.5", max_model_len=4096).output_tokens_per_s

    one = most("RTX-4090", 1)
    for tp in (2, 4, 8):
        assert most("RTX-4090", tp) < 1.4 * one
        assert most("RTX-4090", tp) / tp < 0.6 * one
    assert most("H100-80G-PCIE", 1) > most("RTX-4090", 8)


def test_the_knee_of_a_70b_model_on_two_h100() -> None:
    """NVIDIA NIM's published table, Llama-3.3-70B with weights and cache in FP8, 5 000 in and 500 out: the knee lies
    between 50 and 100 at once."""
    options = {"quantization": "fp8", "kv_cache_dtype": "fp8"}
    clients = (1, 5, 25, 35, 50, 75, 100, 150, 200, 250)
    model = "meta-llama/Llama-3.3-70B-Instruct"
    found = [speed(model, "H100-80G", 2, Load(5000, 500, n), **options) for n in clients]
    top = max(each.output_tokens_per_s for each in found)
    knee = next(n for n, each in zip(clients, found, strict=True) if each.output_tokens_per_s > 0.95 * top)
    assert 50 * 0.75 <= knee <= 100 * 1.25
    assert found[-1].ttft_ms > 10 * found[2].ttft_ms  # beyond it clients wait


def test_deepseek_on_eight_h20() -> None:
    """Published: TP8, 2 048 in, 1 024 out, 100 at once: 791.7 tokens/s, 99.7 ms a token. Its weights take 80 GiB of
    each GPU, so that only the model with 141 GB has room for so many."""
    got = speed("deepseek-ai/DeepSeek-V3.2", "H20-141G", 8, Load(2048, 1024, 100))
    assert got.tpot_ms == pytest.approx(99.7, rel=0.35)
    assert got.output_tokens_per_s == pytest.approx(791.7, rel=0.35)
