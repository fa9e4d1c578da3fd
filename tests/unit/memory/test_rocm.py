"""Memory as AMD's builds report it, and tables of positions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.allocator import MIB, Scratch, allocated, reserved
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.memory.weights import rank_weights

LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("steps", "bytes_"),
    [
        ([1], 2 * MIB),  # a small segment
        ([1, MIB, MIB // 2], 2 * MIB),
        ([2 * MIB], 20 * MIB),
        ([6 * MIB] * 3, 20 * MIB),
        ([9 * MIB] * 3, 40 * MIB),  # two in a segment
        ([11 * MIB + 1], 12 * MIB),
        ([Scratch((64 * MIB, 32 * MIB)), 48 * MIB, 32 * MIB], 96 * MIB),  # later tensors fill what was freed
        ([Scratch((64 * MIB,)), 65 * MIB], 130 * MIB),
    ],
)
def test_reserved_counts_segments(steps: list[int | Scratch], bytes_: int) -> None:
    assert reserved(steps) == bytes_


def test_a_segment_holds_at_least_what_is_allocated() -> None:
    sizes = [3 * MIB, 700, 15 * MIB, MIB, 7 * MIB, 512] * 20
    assert reserved(sizes) >= allocated(sizes)


@pytest.mark.parametrize(
    ("model", "tp", "logged"),
    [(LLAMA, 1, 15.0586), (LLAMA, 2, 7.5820), ("RedHatAI/Qwen3-14B-FP8-dynamic", 1, 15.4180),
     ("cpatonn/Qwen3-Coder-30B-A3B-Instruct-GPTQ-4bit", 1, 16.2266)],
)  # fmt: skip
def test_amd_counts_what_the_device_has_less_of(model: str, tp: int, logged: float) -> None:
    """Figures of the logs in tests/data/accuracy/startups.jsonl."""
    assert _gib(model, "R9700", tp, "0.13.0") == pytest.approx(logged, rel=0.004)


def test_amd_counts_tensors_in_later_releases() -> None:
    assert _gib(LLAMA, "MI300X", 1, "0.32.0") == _gib(LLAMA, "A100-80G", 1, "0.32.0")
    assert _gib(LLAMA, "MI300X", 1, "0.10.0") > _gib(LLAMA, "MI300X", 1, "0.32.0")


def test_vision_models_keep_positions_of_videos() -> None:
    """Qwen2.5-VL: 128 000 rows of 128 16-bit numbers, four times, from the release that brought it."""
    vision = "Qwen/Qwen2.5-VL-7B-Instruct"
    more = _gib(vision, "H100", 1, "0.8.0") - _gib(vision, "H100", 1, "0.7.0")
    assert more == pytest.approx(3 * 128000 * 128 * 2 / (1 << 30), abs=0.001)
    hybrid = "Qwen/Qwen3.5-9B"
    assert _gib(hybrid, "H100", 1, "0.31.0") > _gib(hybrid, "H100", 1, "0.32.0")


def test_language_model_only_has_no_towers() -> None:
    model = catalog().model("Qwen/Qwen3-VL-8B-Instruct")
    assert model
    options = EngineOptions(version="0.11.0")
    whole, text = (
        resolve(model, catalog().gpu("H100"), Shape(), o) for o in (options, replace(options, language_model_only=True))
    )
    towers = sum(w.elements for w in model.towers) * 2
    deepstack = 3 * whole.max_num_batched_tokens * model.hidden_size * 2
    assert rank_weights(whole, 0) - rank_weights(text, 0) == pytest.approx(towers + deepstack, rel=0.05)


def _gib(name: str, gpu: str, tp: int, version: str) -> float:
    model = catalog().model(name)
    assert model, name
    return rank_weights(resolve(model, catalog().gpu(gpu), Shape(tp), EngineOptions(version=version)), 0) / (1 << 30)
