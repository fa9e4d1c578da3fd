"""Weights by rank, estimates by utilization and sizes for plans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.memory.advice import suggestions
from llmfleet.planner.memory.allocator import MIB, allocated
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.llamacpp import size_llamacpp
from llmfleet.planner.memory.settings import parse_version, resolve
from llmfleet.planner.memory.sizing import size
from llmfleet.planner.memory.types import GIB, EngineOptions, Memory, Shape
from llmfleet.planner.memory.weights import rank_weights
from llmfleet.planner.model import model_from_config
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Budget

SMALL = Path(__file__).parents[2] / "data" / "checkpoints"


def known(name: str) -> Model:
    found = catalog().model(name)
    assert found
    return found


def small(kind: str) -> Model:
    return model_from_config(json.loads((SMALL / f"{kind}.json").read_text())["config"], name=kind)


def weights(name: str, gpu: str = "H100", **shape: int) -> float:
    return rank_weights(resolve(known(name), catalog().gpu(gpu), Shape(**shape), EngineOptions()), 0) / GIB


def parts(b: Budget) -> float:
    return b.weights_gib + b.activation_gib + b.non_torch_gib + b.cuda_graph_gib + b.kv_available_gib + b.slack_gib


@pytest.mark.parametrize(
    ("model", "shape", "logged"),
    [
        ("meta-llama/Llama-3.1-8B", {}, 14.99),
        ("meta-llama/Llama-3.1-8B", {"tp": 2}, 7.51),
        ("meta-llama/Llama-3.1-8B", {"tp": 4}, 3.77),
        ("Qwen/Qwen2.5-7B-Instruct", {}, 14.25),
        ("Qwen/Qwen2.5-72B-Instruct", {"tp": 2}, 67.8),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", {}, 56.93),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", {"tp": 2}, 33.88),
    ],
)
def test_weights_are_what_logs_print(model: str, shape: dict[str, int], logged: float) -> None:
    assert weights(model, **shape) == pytest.approx(logged, abs=0.006)


def test_tied_embeddings_are_on_both_ends_of_a_pipeline() -> None:
    model = known("Qwen/Qwen3-4B")
    s = resolve(model, catalog().gpu("H100"), Shape(pp=2), EngineOptions())
    table = model.vocab_size * model.hidden_size * 2 / GIB
    both = (rank_weights(s, 0) + rank_weights(s, 1)) / GIB
    assert both - weights("Qwen/Qwen3-4B") == pytest.approx(table, abs=0.05)


def test_expert_parallelism_keeps_whole_experts() -> None:
    model = known("Qwen/Qwen3-235B-A22B")
    cut = resolve(model, catalog().gpu("H200"), Shape(tp=8), EngineOptions())
    whole = replace(cut, shape=Shape(tp=8, ep=True))
    assert rank_weights(whole, 0) == pytest.approx(rank_weights(cut, 0), rel=0.01)
    three = replace(cut, shape=Shape(tp=3, ep=True))  # 128 experts on 3 ranks: 43 on the fullest
    assert rank_weights(three, 0) > model.weight_bytes("bf16") / 3


def test_the_allocator_counts_blocks() -> None:
    assert allocated([100]) == 512
    assert allocated([2 * MIB] * 10) == 20 * MIB  # one segment
    assert allocated([11 * MIB + 512 * 1024]) == 12 * MIB  # too little is left to split off
    assert allocated([10 * MIB + 256]) == 10 * MIB + 512  # the rest of the segment stays free
    assert allocated([259 * MIB]) == 260 * MIB


@given(st.lists(st.integers(1, 64 * MIB), max_size=60))
def test_the_allocator_wastes_at_most_a_mebibyte_a_tensor(sizes: list[int]) -> None:
    assert sum(sizes) <= allocated(sizes) <= sum(sizes) + len(sizes) * (MIB + 512)


CARDS = ("T4", "V100-32G", "L4", "RTX 4090", "A800-80G", "H100", "H20-96G", "B200", "MI300X", "910B2", "CPU-16G")
MODELS = (
    "Qwen/Qwen1.5-72B-Chat",
    "Qwen/Qwen3-0.6B",
    "deepseek-ai/DeepSeek-V2-Lite",
    "BAAI/bge-m3",
    "google/gemma-3-4b-it",
)


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    gpu=st.sampled_from(CARDS),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2]),
    length=st.integers(1, 40_000),
    seqs=st.integers(1, 2048),
)
def test_parts_add_up_and_the_margin_stays(model: str, gpu: str, tp: int, pp: int, length: int, seqs: int) -> None:
    options = EngineOptions(max_model_len=length, max_num_seqs=seqs, max_num_batched_tokens=4096)
    card, shape = catalog().gpu(gpu), Shape(tp, pp)
    sized, estimated = size(known(model), card, shape, options), estimate(known(model), card, shape, options)
    for memory in (sized, estimated):
        assert len(memory.ranks) == tp * pp
        assert (memory.reason is None) == memory.fits
        for rank in memory.ranks:
            assert parts(rank.budget) == pytest.approx(rank.budget.total_gib)
    if sized.fits:
        assert sized.tightest.slack_gib >= (0.1 if gpu.startswith("CPU") else 0.5) - 1e-9
        if sized.kv:
            assert sized.kv.available_bytes <= (card.visible_gib - sized.tightest.weights_gib) * GIB
            assert sized.kv.max_concurrency >= 1


def test_a_plans_cache_is_whole_blocks_of_the_tightest_stage() -> None:
    memory = size(
        known("Qwen/Qwen1.5-72B-Chat"), catalog().gpu("A800-80G"), Shape(4), EngineOptions(max_model_len=16384)
    )
    assert memory.fits and memory.kv
    assert memory.kv.available_bytes % memory.kv.bytes_per_block == 0
    assert memory.tightest.weights_gib == pytest.approx(33.67, abs=0.1)


def test_a_small_model_fits_a_small_cpu_slot() -> None:
    options = EngineOptions(max_model_len=256, max_num_seqs=16, max_num_batched_tokens=512)
    memory = size(small("llama"), catalog().gpu("CPU-3G"), Shape(), options)
    assert memory.fits and memory.kv
    assert 0.5 * GIB <= memory.kv.available_bytes <= GIB * 1.2
    assert memory.kv.block_size == 128


def reason(model: str, gpu: str, options: EngineOptions | None = None, **shape: int) -> str:
    memory = estimate(known(model), catalog().gpu(gpu), Shape(**shape), options or EngineOptions())
    assert not memory.fits and memory.reason
    return memory.reason


def test_reasons_carry_the_numbers() -> None:
    assert "weights of 134.7 GiB" in reason("Qwen/Qwen1.5-72B-Chat", "H100")
    assert "one request of 40960 tokens needs 5.63 GiB" in reason("Qwen/Qwen3-8B", "RTX 4090")
    assert reason("Qwen/Qwen2.5-7B-Instruct", "H100", tp=8) == "TP8 does not divide 28 attention heads"
    assert "group of 128" in reason("Qwen/Qwen2.5-14B-Instruct-AWQ", "H100", tp=8)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(version="latest"), EngineOptions(gpu_memory_utilization=0),
        EngineOptions(gpu_memory_utilization=1.2), EngineOptions(max_model_len=0),
        EngineOptions(max_num_seqs=-1), EngineOptions(dtype="int3"),
        EngineOptions(kv_cache_dtype="q"), EngineOptions(block_size=0),
    ],
)  # fmt: skip
def test_options_that_no_engine_takes(options: EngineOptions) -> None:
    with pytest.raises(InputError):
        estimate(known("Qwen/Qwen3-8B"), catalog().gpu("L4"), Shape(), options)


def test_an_unknown_precision_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="fp8"):
        estimate(known("Qwen/Qwen3-8B"), catalog().gpu("L4"), Shape(), EngineOptions(quantization="fp88"))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.19.1", (0, 19, 1)),
        ("v0.33", (0, 33, 0)),
        ("0.11.2.dev690+g67475a6e8", (0, 11, 2)),
        ("0.26.1rc1", (0, 26, 1)),
    ],
)
def test_versions(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


def test_defaults_follow_the_version() -> None:
    def resolved(gpu: str, version: str) -> tuple[float, int, int]:
        s = resolve(known("Qwen/Qwen3-8B"), catalog().gpu(gpu), Shape(), EngineOptions(version=version))
        return s.utilization, s.max_num_batched_tokens, s.max_num_seqs

    assert resolved("H100", "0.19.0") == (0.9, 8192, 1024)
    assert resolved("A100-80G", "0.33.0") == (0.92, 2048, 256)
    assert resolved("A800-80G", "0.33.0") == (0.92, 8192, 1024)
    assert resolved("B200", "0.33.0") == (0.92, 16384, 1024)


def test_suggestions_were_estimated() -> None:
    card, model, options = catalog().gpu("RTX 4090"), known("Qwen/Qwen3-8B"), EngineOptions()
    found = suggestions(model, card, Shape(), options)
    assert [s.flags for s in found] == ["--max-model-len 16384", "--kv-cache-dtype fp8", "--tp 2"]
    assert all(s.memory.fits for s in found)


def llama(model: Model, gpu: str, precision: str, context: int = 4096, slots: int = 2) -> Memory:
    return size_llamacpp(model, catalog().gpu(gpu), precision, context, slots)


def test_llamacpp_of_a_published_file() -> None:
    """Llama-3.1-8B Q4_K_M is 4.58 GiB on the hub; 14B in four bits runs on a P100 with one slot of 4k."""
    found = llama(known("meta-llama/Llama-3.1-8B"), "P100", "q4_k_m")
    assert found.fits
    assert found.tightest.weights_gib == pytest.approx(4.58, abs=0.02)
    assert found.kv and found.kv.tokens == 8192 and found.kv.max_concurrency == 2
    assert llama(known("Qwen/Qwen1.5-14B-Chat"), "P100", "q4_k_m", slots=1).fits
    refused = llama(known("Qwen/Qwen1.5-14B-Chat"), "P100", "q4_k_m", slots=8)
    assert not refused.fits and "8 × 4096 tokens" in (refused.reason or "")


@given(context=st.integers(1, 1 << 18), slots=st.integers(1, 64))
def test_llamacpp_parts_add_up(context: int, slots: int) -> None:
    memory = llama(known("google/gemma-3-270m-it"), "P100", "q4_k_m", context, slots)
    assert parts(memory.tightest) == pytest.approx(memory.tightest.total_gib)


def test_llamacpp_refuses_nothing_at_all() -> None:
    with pytest.raises(InputError):
        llama(known("google/gemma-3-270m-it"), "P100", "q4_k_m", 0, 1)
