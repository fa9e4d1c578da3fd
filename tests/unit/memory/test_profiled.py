"""What vLLM allocates beside weights and cache while it starts, each against a start-up that printed it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.advice import suggestions
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.overheads import activation
from llmfleet.planner.memory.settings import Settings, resolve
from llmfleet.planner.memory.types import GIB, EngineOptions, Memory, Shape
from llmfleet.planner.memory.weights import rank_weights

VISION = "Qwen/Qwen3-VL-30B-A3B-Instruct"


def settings(model: str, gpu: str, tp: int = 1, **options: object) -> Settings:
    found = catalog().model(model)
    assert found
    return resolve(found, catalog().gpu(gpu), Shape(tp), EngineOptions(**options))  # type: ignore[arg-type]


def started(model: str, gpu: str, tp: int = 1, **options: object) -> Memory:
    found = catalog().model(model)
    assert found
    return estimate(found, catalog().gpu(gpu), Shape(tp), EngineOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "options", "logged"),
    [
        (VISION, "H100-80G", 2, {"version": "0.12.0"}, 29.3115),  # three buffers for 8192 tokens
        (VISION, "RTX-3090", 4, {"version": "0.11.0"}, 14.7708),  # for 2048
        ("google/gemma-4-E2B", "L4", 1, {"version": "0.21.0", "language_model_only": True}, 8.89),
        ("google/gemma-4-E4B-it", "A100-40G", 1, {"version": "0.20.0"}, 15.16),  # keys and values of 18 layers more
        ("google/gemma-4-26B-A4B", "A100-80G", 1, {"version": "0.19.0"}, 48.5),  # values that are the keys
        ("Qwen/Qwen3-0.6B", "Ascend-910B3", 1, {"version": "0.20.0"}, 1.1397),  # cosines and sines three times
    ],
)
def test_weights_count_what_the_engine_makes_itself(
    model: str, gpu: str, tp: int, options: dict[str, object], logged: float
) -> None:
    assert rank_weights(settings(model, gpu, tp, **options), 0) / GIB == pytest.approx(logged, rel=0.0015)


def test_parameters_are_those_of_the_checkpoint() -> None:
    model = catalog().model("google/gemma-4-E4B-it")
    assert model
    unstored = sum(w.elements for layer in model.layers for w in layer.unstored)
    assert unstored > 50e6
    assert model.params == pytest.approx(8.0e9, rel=0.02)


@pytest.mark.parametrize(
    ("version", "tokens"),
    [("0.12.0", 153_600), ("0.13.0", 16_384)],
)
def test_outputs_of_the_encoder_stay_while_the_decoder_is_profiled(version: str, tokens: int) -> None:
    """2048 wide, and three layers' outputs beside the last one's."""
    whole = settings(VISION, "H100-80G", version=version)
    text = settings(VISION, "H100-80G", version=version, language_model_only=True)
    assert activation(whole, 0) - activation(text, 0) == pytest.approx(tokens * 2048 * 4 * 2, abs=2)


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "options", "logged"),
    [
        (VISION, "RTX-3090", 4, {"version": "0.11.0", "max_model_len": 65536}, 2.31),
        (VISION, "H100-80G", 2, {"version": "0.12.0", "max_model_len": 65536, "max_num_seqs": 64}, 38.15),
        ("Qwen/Qwen3-30B-A3B", "H100-80G", 2, {"version": "0.12.0", "max_num_seqs": 64}, 41.68),  # buffers not kept
        (
            "Qwen/Qwen2.5-7B-Instruct",
            "V100-32G",  # no FlashInfer, and nothing is sorted
            1,
            {"version": "0.18.0", "dtype": "float16", "enforce_eager": True, "max_num_batched_tokens": 8192},
            13.1,
        ),
        (
            "Qwen/Qwen3-0.6B",
            "Ascend-910B3",  # logits alone, and no graphs
            1,
            {"version": "0.20.0", "gpu_memory_utilization": 0.92, "max_num_batched_tokens": 8192, "max_num_seqs": 256},
            54.98,
        ),
    ],
)
def test_cache_as_logged(model: str, gpu: str, tp: int, options: dict[str, object], logged: float) -> None:
    found = started(model, gpu, tp, **options).ranks[0].budget.kv_available_gib
    assert found == pytest.approx(logged, rel=0.011)


def test_few_rows_are_still_sorted() -> None:
    at = {seqs: settings("Qwen/Qwen3-0.6B", "T4", max_num_seqs=seqs, version="0.19.0") for seqs in (7, 8)}
    assert activation(at[7], 0) >= activation(at[8], 0)


def test_buffers_of_experts_are_kept_since_their_kernels_are_modular() -> None:
    old, new = (settings("Qwen/Qwen3-30B-A3B", "H100-80G", version=v) for v in ("0.13.0", "0.14.0"))
    assert activation(new, 0) - activation(old, 0) == 8192 * 8 * 2 * (2048 + 2048)


HYBRID = "Qwen/Qwen3.8-27B-FP8"
FULL: dict[str, object] = {"version": "0.26.0", "max_model_len": 131072, "gpu_memory_utilization": 0.9}


def test_a_sequence_needs_a_block_for_its_state_where_graphs_are_captured() -> None:
    refused = started(HYBRID, "L40S", **FULL)
    assert refused.kv
    assert refused.reason == (
        f"each of 256 sequences takes a block for its recurrent state, and there are {refused.kv.gpu_blocks}: "
        f"--max-num-seqs {refused.kv.gpu_blocks} starts"
    )
    assert started(HYBRID, "L40S", **FULL, max_num_seqs=16).fits
    assert started(HYBRID, "L40S", **FULL, enforce_eager=True).fits
    assert started(HYBRID, "L40S", **{**FULL, "version": "0.19.0"}).fits


def test_the_first_suggestion_then_is_fewer_sequences() -> None:
    model = catalog().model(HYBRID)
    assert model
    options = replace(EngineOptions(), version="0.26.0", max_model_len=131072, gpu_memory_utilization=0.9)
    found = suggestions(model, catalog().gpu("L40S"), Shape(), options)
    assert found[0].flags.startswith("--max-num-seqs ")
    assert found[0].memory.fits
