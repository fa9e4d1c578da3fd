"""The KV pool, against figures from logs and from vLLM's own code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import InputError
from llmfleet.planner.memory import kv
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import GIB, EngineOptions, KvCache, Shape
from llmfleet.planner.memory.weights import partition
from llmfleet.planner.model import model_from_config
from llmfleet.planner.model.types import Model, State

KNOWN = Path(__file__).parents[2] / "data" / "known_sizes.jsonl"


def known(name: str) -> Model:
    found = catalog().model(name)
    assert found
    return found


def cache(name: str, gib: float, *, tp: int = 1, pp: int = 1, **flags: object) -> KvCache:
    """The pool of so many GiB on each rank of H100s."""
    options = EngineOptions(kv_cache_memory_bytes=int(gib * GIB), **flags)  # type: ignore[arg-type]
    found = estimate(known(name), catalog().gpu("H100"), Shape(tp, pp), options).kv
    assert found
    return found


def test_llama_on_one_gpu() -> None:
    """A log of vLLM 0.19: 58.11 GiB, 476 016 tokens."""
    found = cache("meta-llama/Llama-3.1-8B", 58.11, version="0.19.0", max_model_len=8192)
    assert found.bytes_per_token == 131072
    assert found.tokens == pytest.approx(476016, rel=1e-4)


def test_gated_delta_net_aligns_the_block() -> None:
    """A log of Qwen3.5-4B on an L4: 564 blocks of 528 tokens, 8.17 requests of 32 768, 267 842 tokens."""
    found = cache("Qwen/Qwen3.5-4B", 564 * 17301504 / GIB, version="0.33.0", max_model_len=32768)
    assert (found.block_size, found.bytes_per_block, found.gpu_blocks, found.tokens) == (528, 17301504, 564, 267842)
    assert found.max_concurrency == pytest.approx(8.17, abs=0.005)


def test_windows_and_full_attention_share_a_pool() -> None:
    """A log of gpt-oss-20b on an H100, vLLM 0.19: 58.47 GiB, 1 277 184 tokens, 155.75 requests."""
    found = cache("openai/gpt-oss-20b", 58.47, version="0.19.0", max_model_len=8192, max_num_batched_tokens=8192)
    assert found.bytes_per_block == 393216
    assert found.tokens == pytest.approx(1277184, rel=2e-4)
    assert found.max_concurrency == pytest.approx(155.75, rel=2e-4)


def test_kv_heads_are_repeated_when_there_are_fewer_than_ranks() -> None:
    one = cache("Qwen/Qwen2.5-7B-Instruct", 10, tp=4)  # 4 KV heads
    assert one.bytes_per_token * 4 == cache("Qwen/Qwen2.5-7B-Instruct", 10).bytes_per_token
    shared = cache("Qwen/Qwen2.5-1.5B-Instruct", 10, tp=4)  # 2 KV heads
    assert shared.bytes_per_token * 2 == cache("Qwen/Qwen2.5-1.5B-Instruct", 10).bytes_per_token


def test_latent_attention_is_whole_on_every_rank() -> None:
    wide = cache("deepseek-ai/DeepSeek-V3", 10, tp=8, version="0.19.0")
    assert wide.bytes_per_token == 61 * 576 * 2
    assert cache("deepseek-ai/DeepSeek-V3", 10, tp=8, version="0.7.3").bytes_per_token == 61 * 640 * 2
    assert cache("deepseek-ai/DeepSeek-V3.2", 10, tp=8).block_size == 64


def test_eight_bit_cache_holds_twice_as_much() -> None:
    assert cache("Qwen/Qwen3-8B", 10, kv_cache_dtype="fp8").gpu_blocks == 2 * cache("Qwen/Qwen3-8B", 10).gpu_blocks


@pytest.mark.parametrize(
    ("layers", "stages", "split"),
    [(62, 4, (15, 16, 16, 15)), (61, 2, (31, 30)), (33, 4, (8, 8, 9, 8)), (32, 4, (8, 8, 8, 8)), (7, 7, (1,) * 7)],
)
def test_pipeline_split_is_vllms_own(layers: int, stages: int, split: tuple[int, ...]) -> None:
    assert partition(layers, Shape(pp=stages)) == split


@pytest.mark.parametrize("given", [(1, 2), (30, 30, 1), (61, 0), (62, -1)])
def test_a_partition_that_does_not_add_up_is_refused(given: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="61 layers"):
        partition(61, Shape(pp=2, pp_partition=given))


def test_the_tightest_stage_sets_the_blocks() -> None:
    even = cache("Qwen/Qwen3-8B", 10, pp=2)
    s = resolve(known("Qwen/Qwen3-8B"), catalog().gpu("H100"), Shape(pp=2, pp_partition=(30, 6)), EngineOptions())
    pool = kv.pool(s)
    assert pool
    uneven = kv.kv_cache(s, [10 * GIB, 10 * GIB], pool)
    assert uneven
    assert uneven.gpu_blocks == pytest.approx(even.gpu_blocks * 18 / 30, rel=1e-3)


@given(gib=st.floats(0, 200), length=st.integers(1, 200_000), tp=st.sampled_from([1, 2, 4, 8]))
def test_a_cache_never_promises_more_than_it_has(gib: float, length: int, tp: int) -> None:
    for name in ("Qwen/Qwen3-8B", "google/gemma-3-27b-it", "Qwen/Qwen3-Next-80B-A3B-Instruct"):
        s = resolve(known(name), catalog().gpu("H200"), Shape(tp), EngineOptions(max_model_len=length))
        pool = kv.pool(s)
        assert pool
        found = kv.kv_cache(s, [int(gib * GIB)], pool)
        assert found
        assert found.gpu_blocks * found.bytes_per_block <= gib * GIB
        assert found.max_concurrency * pool.request_blocks == pytest.approx(found.gpu_blocks)
        assert pool.least_bytes(0) > 0


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "deepseek-ai/DeepSeek-V2-Lite"])
def test_a_token_takes_as_much_at_any_length(name: str) -> None:
    found = cache(name, 40.0, max_model_len=32768)
    assert found.tokens_at(500) == found.tokens_at(32768) == pytest.approx(found.gpu_blocks * found.block_size)


def test_short_requests_hold_their_windows_whole() -> None:
    """Five of six layers of Gemma 3 look back 1 024 tokens: requests of 1 500 save hardly anything there."""
    found = cache("google/gemma-3-27b-it", 40.0, version="0.33.0", max_model_len=32768)
    many = [found.tokens_at(length) / length for length in (1_500, 8_000, 32_768)]
    assert many == sorted(many, reverse=True)
    assert found.tokens_at(1_500) == pytest.approx(32768 / (6 * 65 + 93.75) * 1_500)


@pytest.mark.parametrize("name", ["google/gemma-3-27b-it", "openai/gpt-oss-20b", "Qwen/Qwen3-Next-80B-A3B-Instruct"])
def test_what_decodes_holds_less_than_what_an_engine_reserves(name: str) -> None:
    """`tokens` is for requests whose prompts are under way, each with a batch of tokens in every window."""
    found = cache(name, 40.0, version="0.33.0", max_model_len=32768)
    assert found.tokens <= found.tokens_at(32_768) < 4 * found.tokens


def test_encoders_cache_nothing() -> None:
    for name in ("BAAI/bge-m3", "BAAI/bge-reranker-v2-m3"):
        memory = estimate(known(name), catalog().gpu("T4"), Shape(), EngineOptions())
        assert memory.fits
        assert memory.kv is None
        assert memory.tightest.kv_available_gib == 0


def test_an_old_engine_keeps_windows_whole() -> None:
    s = resolve(known("google/gemma-3-27b-it"), catalog().gpu("H100"), Shape(), EngineOptions(version="0.9.2"))
    assert len(kv.pool(s).groups) == 1  # type: ignore[union-attr]
    assert len(kv.pool(replace(s, version=(0, 10, 0))).groups) == 7  # type: ignore[union-attr]


def test_a_single_group_of_mamba_is_whole_on_every_rank() -> None:
    """Granite 4: convolution over inner width and two vectors of one group (mamba_utils.py)."""
    rows = [json.loads(line) for line in KNOWN.read_text(encoding="utf-8").splitlines()]
    config = next(row["config"] for row in rows if row["model"] == "ibm-granite/granite-4.0-h-small")
    model = model_from_config(config, name="granite")
    state = next(cache for cache in model.layers[0].caches if isinstance(cache, State))
    alone, halved = (
        kv.state_bytes(resolve(model, catalog().gpu("H100"), Shape(tp), EngineOptions()), state) for tp in (1, 2)
    )
    recurrent = 128 * 64 * 128 * 2
    assert alone == (8192 + 2 * 128) * 3 * 2 + recurrent
    assert halved == (4096 + 2 * 128) * 3 * 2 + recurrent // 2
