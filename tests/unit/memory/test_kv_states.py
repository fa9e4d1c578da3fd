"""What a request holds in recurrent layers, by release and by whether its prefix is cached."""

from __future__ import annotations

import pytest

from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory import kv
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.memory.weights import rank_weights


@pytest.mark.parametrize(
    ("version", "cached", "states"),
    [("0.20.0", None, 1), ("0.20.0", True, 2), ("0.28.0", None, 2), ("0.28.0", False, 1)],
)
def test_a_cached_prefix_costs_one_state_more(version: str, cached: bool | None, states: int) -> None:
    model = catalog().model("Qwen/Qwen3.5-9B")
    assert model
    options = EngineOptions(version=version, max_model_len=16384, enable_prefix_caching=cached)
    pool = kv.pool(resolve(model, catalog().gpu("L40S"), Shape(), options))
    assert pool
    recurrent = sorted(group.request_blocks for group in pool.groups)[:3]
    assert recurrent == [states] * 3


def test_concurrency_of_0_8_is_tokens_over_length() -> None:
    model = catalog().model("Qwen/Qwen3-8B")
    assert model
    found = []
    for version in ("0.8.4", "0.11.0"):
        s = resolve(model, catalog().gpu("L40S"), Shape(), EngineOptions(version=version, max_model_len=138))
        cache = kv.kv_cache(s, [1 << 30], kv.pool(s))
        assert cache
        found.append((cache.gpu_blocks, cache.max_concurrency))
    (blocks, early), (same, late) = found
    assert blocks == same
    assert early == pytest.approx(blocks * 16 / 138)
    assert late == pytest.approx(blocks / 9)


def test_qwen3_experts_have_both_ends_on_every_stage() -> None:
    model = catalog().model("Qwen/Qwen3-30B-A3B")
    assert model
    settings = resolve(model, catalog().gpu("H100"), Shape(pp=3), EngineOptions(version="0.10.2"))
    first, middle, last = (rank_weights(settings, stage) for stage in range(3))
    ends = 2 * 151936 * 2048 * 2
    assert abs(first - middle) < ends // 100 and abs(last - middle) < ends // 100
