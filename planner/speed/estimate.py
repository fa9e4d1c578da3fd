"""Speed of one instance: what it is expected to do, as the figures that plans and `llmfleet estimate` print."""

from __future__ import annotations

from math import inf
from typing import Final

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.errors import InputError
from llmfleet.planner.figures import EngineName, Expected
from llmfleet.planner.memory.settings import Version
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.batching import Steady, batching
from llmfleet.planner.speed.hardware import hardware_of
from llmfleet.planner.speed.pace import scale_of
from llmfleet.planner.speed.request import Request
from llmfleet.planner.speed.run import Room
from llmfleet.planner.speed.seen import Seen, at_concurrency, at_rate
from llmfleet.planner.speed.steps import Steps, steps_from
from llmfleet.planner.speed.work import work_of

DEFAULT_CHUNK: Final = 8192
MOST_SEQUENCES: Final = 1024

# How far measured values lie from the estimate, as factors; wider where no measurement of the class stands behind it.
SPREAD: Final = {"calibrated": (0.85, 1.2), "roofline": (0.75, 1.4)}
TTFT_SPREAD: Final = (0.58, 1.73)  # three times as wide as it is low: queues and bursts decide it


def steps_of(
    model: Model,
    gpu: Gpu,
    shape: Shape,
    precision: str,
    *,
    link: str | None = None,
    nic_bits_s: float | None = None,
    engine: EngineName = "vllm",
    chunk: int = DEFAULT_CHUNK,
    kv_bytes_per_element: float = 2,
    version: Version | None = None,
    graphs: bool = True,
) -> Steps:
    """`version`: of vLLM, None the newest. `graphs`: whether it records CUDA graphs.

    Raises UnknownNameError for an unknown precision.
    """
    hardware = hardware_of(gpu, shape, precision, link=link, nic_bits_s=nic_bits_s, engine=engine, version=version)
    scale = scale_of(gpu, engine, model.name, precision, shape)
    return steps_from(work_of(model, precision, kv_bytes_per_element), hardware, chunk, scale, graphs=graphs)


def seen(
    model: Model,
    gpu: Gpu,
    shape: Shape,
    precision: str,
    *,
    input_len: float,
    output_len: float,
    concurrency: float | None = None,
    request_rate: float | None = None,
    kv_tokens: float | None = None,
    prefix_hit: float = 0.0,
    link: str | None = None,
    nic_bits_s: float | None = None,
    engine: EngineName = "vllm",
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    version: Version | None = None,
    graphs: bool = True,
    kv_bytes_per_element: float = 2,
) -> Seen:
    """What a benchmark of so many clients, or of requests at that rate, sees: from its start to its last answer.

    Lengths in tokens, rate in requests/s. Without concurrency and rate: one client.
    Raises InputError for lengths or loads that mean nothing.
    """
    _check(input_len, output_len, concurrency, request_rate)
    steps = steps_of(
        model, gpu, shape, precision, link=link, nic_bits_s=nic_bits_s, engine=engine, version=version,
        chunk=max_num_batched_tokens or DEFAULT_CHUNK, graphs=graphs, kv_bytes_per_element=kv_bytes_per_element,
    )  # fmt: skip
    request = Request(input_len, output_len if model.task == "generate" else 0.0, prefix_hit)
    room = Room(kv_tokens or inf, max_num_seqs or MOST_SEQUENCES, prefix_hit)
    run = _run(steps, request, room, concurrency, request_rate) if request.output_len else None
    if run is not None:
        return run
    load = batching(steps, request, most_sequences(request, kv_tokens, max_num_seqs))
    return _lasting(load.at_rate(request_rate) if request_rate else load.at_concurrency(concurrency or 1), request)


def _run(steps: Steps, request: Request, room: Room, clients: float | None, rate: float | None) -> Seen | None:
    if rate:
        return at_rate(steps, request, room, rate)
    return at_concurrency(steps, request, room, clients or 1)


def most_sequences(request: Request, kv_tokens: float | None, max_num_seqs: int | None) -> float:
    """Sequences at once: the cache, which has room for so many tokens of such requests (KvCache.tokens_at), holds each
    with its whole answer; never less than one.
    """
    held = kv_tokens / request.held if kv_tokens else inf
    return max(1.0, min(held, max_num_seqs or MOST_SEQUENCES))


def _lasting(steady: Steady, request: Request) -> Seen:
    ttft, tpot, tokens = steady.ttft_s, steady.tpot_s, steady.rate * request.output_len
    return Seen(ttft, ttft, steady.ttft_tail_s, tpot, steady.tpot_tail_s, tpot, steady.rate, tokens)


def expected(steady: Steady, request: Request, gpu: Gpu) -> Expected:
    return figures(_lasting(steady, request), gpu)


def figures(seen: Seen, gpu: Gpu) -> Expected:
    low, high = SPREAD["calibrated" if gpu.paces or gpu.calibrated else "roofline"]
    ttft, tpot = seen.ttft_s * 1000, seen.tpot_s * 1000
    return Expected(
        ttft_ms=_round(ttft),
        tpot_ms=_round(tpot),
        output_tokens_per_s=_round(seen.tokens_per_s),
        requests_per_s=_round(seen.requests_per_s),
        ttft_ms_range=(_round(ttft * TTFT_SPREAD[0]), _round(ttft * TTFT_SPREAD[1])),
        tpot_ms_range=(_round(tpot * low), _round(tpot * high)),
        source="calibrated" if gpu.paces else "roofline",
        ttft_tail_ms=_round(seen.ttft_tail_s * 1000),
        tpot_tail_ms=_round(seen.tpot_tail_s * 1000),
    )


def _check(input_len: float, output_len: float, concurrency: float | None, rate: float | None) -> None:
    for name, value in (("input length", input_len), ("concurrency", concurrency), ("request rate", rate)):
        if value is not None and not 0 < value < inf:
            raise InputError(f"{name} {value:g}: a positive number is needed")
    if not 0 <= output_len < inf:
        raise InputError(f"output length {output_len:g}: 0 or more tokens")
    if concurrency is not None and rate is not None:
        raise InputError("concurrency and request rate exclude each other", hint="give one of the two")


def _round(value: float) -> float:
    """Four significant digits: no more is known."""
    return float(f"{value:.4g}")
