"""The speed model: what must hold of any such model, and published measurements that it has to come near to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import model

from llmfleet.planner.catalog import catalog
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.errors import InputError
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import Expected
from llmfleet.planner.speed.batching import batching
from llmfleet.planner.speed.estimate import figures, seen, steps_of
from llmfleet.planner.speed.request import Limits, Request

QWEN32 = "Qwen/Qwen3-32B"


def estimate(which: Model, gpu: Gpu, shape: Shape, precision: str, **load: object) -> Expected:
    return figures(seen(which, gpu, shape, precision, **load), gpu)  # type: ignore[arg-type]


def speed(name: str = QWEN32, gpu: str = "H100", tp: int = 2, precision: str = "bf16", **load: object) -> Expected:
    given = {"input_len": 1024, "output_len": 512, **load}
    return estimate(model(name), catalog().gpu(gpu), Shape(tp=tp), precision, **given)


# Qwen3-32B in bf16 under vLLM on H100 SXM, measured: NVIDIA's aiconfigurator 0.12, silicon_sample.csv (Apache-2.0).
MEASURED = [
    (2, 8, 1024, 512, 16.48), (2, 64, 1024, 1024, 26.09), (2, 32, 4096, 128, 74.99),
    (4, 8, 1024, 1024, 10.60), (4, 64, 4096, 512, 34.90), (4, 128, 1024, 512, 28.54),
    (8, 16, 4096, 1024, 10.20), (8, 64, 1024, 128, 21.32), (8, 128, 4096, 1024, 30.78),
]  # fmt: skip


@pytest.mark.parametrize(("tp", "clients", "prompt", "answer", "tpot_ms"), MEASURED)
def test_near_what_was_measured(tp, clients, prompt, answer, tpot_ms):
    got = speed(tp=tp, input_len=prompt, output_len=answer, concurrency=clients, version=(0, 12, 0))
    assert got.tpot_ms == pytest.approx(tpot_ms, rel=0.15)


def test_tensor_parallelism_over_pcie_gains_nothing_for_a_small_model():
    """Published: two RTX 4090 at TP2 gave nothing over one card on an 8B model."""
    one = speed("Qwen/Qwen2.5-7B-Instruct", "RTX-4090", tp=1, concurrency=32)
    two = speed("Qwen/Qwen2.5-7B-Instruct", "RTX-4090", tp=2, concurrency=32)
    assert two.output_tokens_per_s < 1.4 * one.output_tokens_per_s


@pytest.mark.parametrize("gpu", ["A800-80G", "H20-96G", "V100-32G", "P100-16G", "L4", "CPU-4G", "MI300X"])
@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_finite_on_every_kind_of_hardware(gpu, engine):
    precision = "q4_k_m" if engine == "llama.cpp" else "fp16"
    got = estimate(
        model("Qwen/Qwen2.5-1.5B-Instruct"),
        catalog().gpu(gpu),
        Shape(),
        precision,
        input_len=500,
        output_len=100,
        concurrency=4,
        engine=engine,
    )
    assert 0 < got.ttft_ms < 1e7
    assert 0 < got.tpot_ms < 1e5
    assert got.output_tokens_per_s > 0


def test_embedding_is_prefill_alone():
    got = estimate(
        model("BAAI/bge-m3"), catalog().gpu("V100-32G"), Shape(), "fp16", input_len=500, output_len=0, request_rate=10
    )
    assert (got.tpot_ms, got.output_tokens_per_s) == (0, 0)
    assert got.requests_per_s == 10
    assert got.ttft_ms > 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.floats(1, 300), st.integers(16, 20_000), st.integers(2, 2000))
def test_more_clients_never_less_throughput_nor_lower_latency(tp, clients, prompt, answer):
    few = speed(tp=tp, concurrency=clients, input_len=prompt, output_len=answer)
    many = speed(tp=tp, concurrency=2 * clients, input_len=prompt, output_len=answer)
    # Near saturation ever more steps are mixed ones, where answers no longer ride for free: a few percent.
    assert many.requests_per_s >= few.requests_per_s * 0.96
    assert many.tpot_ms >= few.tpot_ms * 0.999
    assert many.ttft_ms >= few.ttft_ms * 0.96


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.95), st.integers(100, 8000), st.integers(1, 1000))
def test_prefix_hits_never_slow_down(hit, prompt, answer):
    cold = speed(concurrency=16, input_len=prompt, output_len=answer)
    warm = speed(concurrency=16, input_len=prompt, output_len=answer, prefix_hit=hit)
    assert warm.requests_per_s >= cold.requests_per_s * 0.999


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 10), st.floats(0.005, 0.5), st.floats(0.3, 1))
def test_stricter_limits_never_more_capacity(ttft, tpot, factor):
    steps = steps_of(model(QWEN32), catalog().gpu("H100"), Shape(tp=2), "bf16")
    request = Request(2000, 200, tail_len=6000)
    loose = batching(steps, request, 40, Limits(ttft, tpot)).capacity()
    strict = batching(steps, request, 40, Limits(ttft * factor, tpot * factor)).capacity()
    assert strict.rate <= loose.rate * 1.0001
    if strict.rate > 0:
        assert strict.ttft_tail_s <= ttft * factor
        assert strict.tpot_tail_s <= tpot * factor


def test_a_full_cache_makes_requests_wait():
    roomy = speed(concurrency=64, kv_tokens=1e6)
    tight = speed(concurrency=64, kv_tokens=16 * 1536)
    assert tight.ttft_ms > 5 * roomy.ttft_ms
    assert tight.tpot_ms < roomy.tpot_ms
    assert tight.requests_per_s < roomy.requests_per_s


def test_a_rate_beyond_saturation_gives_the_saturated_rate():
    most = speed(request_rate=1e6, kv_tokens=50_000)
    assert most.requests_per_s == pytest.approx(speed(request_rate=1e3, kv_tokens=50_000).requests_per_s, rel=0.05)
    slow = speed(request_rate=0.5, kv_tokens=50_000)
    assert slow.requests_per_s == pytest.approx(0.5, rel=0.05)  # less the time of the last answers
    assert most.ttft_ms > 100 * slow.ttft_ms  # the queue is what is left of the run


def test_pipeline_stages_add_latency_and_throughput():
    one = speed(tp=2, concurrency=64)
    two = estimate(
        model(QWEN32),
        catalog().gpu("H100"),
        Shape(tp=2, pp=2),
        "bf16",
        input_len=1024,
        output_len=512,
        concurrency=128,
        nic_bits_s=25e9,
    )
    assert one.output_tokens_per_s < two.output_tokens_per_s < 2.2 * one.output_tokens_per_s


@pytest.mark.parametrize(
    "load",
    [
        {"input_len": 0},
        {"output_len": -1},
        {"concurrency": 0},
        {"request_rate": -2},
        {"concurrency": 1, "request_rate": 1},
        {"input_len": float("nan")},
    ],
)
def test_loads_that_mean_nothing(load):
    with pytest.raises(InputError):
        speed(**load)
