"""A benchmark run, step by step: nothing is lost, nothing comes before its time, and less room is never faster."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.speed.batching import batching
from llmfleet.planner.speed.estimate import steps_of
from llmfleet.planner.speed.request import Request
from llmfleet.planner.speed.run import Client, Room, Run
from llmfleet.planner.speed.seen import Seen, at_concurrency, at_rate
from llmfleet.planner.speed.steps import Steps


def steps(chunk: int = 8192) -> Steps:
    model = catalog().model("Qwen/Qwen3-8B")
    assert model is not None
    return steps_of(model, catalog().gpu("H100-80G"), Shape(), "bf16", chunk=chunk)


def seen(found: Seen | None) -> Seen:
    assert found is not None
    return found


CLIENTS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5000), st.integers(1, 300)), min_size=1, max_size=40)


@settings(max_examples=150)
@given(CLIENTS, st.integers(1, 20), st.integers(256, 8192), st.sampled_from([None, 1, 3, 50]))
def test_all_are_answered_in_order_and_none_too_early(
    made: list[tuple[float, int, int]], sequences: int, chunk: int, crowd: int | None
) -> None:
    room = Room(6000.0, sequences)
    clients = [Client(i, at, prompt, answer) for i, (at, prompt, answer) in enumerate(sorted(made))]
    asked = [c.answer for c in clients]
    run = Run(steps(chunk), clients, room, crowd)
    assert run.finished()
    floor = steps(chunk).step_s(1, 0)
    for client, answer in zip(clients, asked, strict=True):
        assert client.first_s >= client.arrival_s + floor * 0.99
        assert client.last_s >= client.first_s + (answer - 1) * floor * 0.99
    assert run.running == 0 and not run.waiting
    assert run.used == pytest.approx(0, abs=1e-6)
    assert run.context == pytest.approx(0, abs=1e-6)
    assert run.now == pytest.approx(max(c.last_s for c in clients))


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(50, 4000), st.integers(2, 200))
def test_less_room_is_never_faster(clients: int, prompt: int, answer: int) -> None:
    request = Request(prompt, answer)
    roomy = seen(at_concurrency(steps(), request, Room(), clients))
    tight = seen(at_concurrency(steps(), request, Room(tokens=2.0 * (prompt + answer)), clients))
    assert tight.requests_per_s <= roomy.requests_per_s * 1.02


def test_a_long_run_of_clients_comes_to_the_steady_state() -> None:
    request = Request(1000, 200)
    run = seen(at_concurrency(steps(), request, Room(sequences=256), 64))
    steady = batching(steps(), request, 256).at_concurrency(64)
    assert run.tpot_s == pytest.approx(steady.tpot_s, rel=0.1)
    assert run.requests_per_s == pytest.approx(steady.rate, rel=0.15)


def test_beyond_capacity_the_queue_grows_with_the_run() -> None:
    request, room = Request(1000, 200), Room(sequences=16)
    short = seen(at_rate(steps(), request, room, 50.0, 100))
    long = seen(at_rate(steps(), request, room, 50.0, 400))
    assert long.ttft_s > 2.5 * short.ttft_s
    assert long.requests_per_s == pytest.approx(short.requests_per_s, rel=0.3)  # less start and end


def test_a_sequence_that_finds_the_cache_full_gives_way_and_is_finished_all_the_same() -> None:
    clients = [Client(i, 0.0, 100, 400) for i in range(8)]
    run = Run(steps(), clients, Room(tokens=1600.0))
    assert run.finished()
    crowded = max(c.tpot_s for c in clients)
    alone = Client(0, 0.0, 100, 400)
    assert Run(steps(), [alone], Room()).finished()
    assert crowded > 1.3 * alone.tpot_s


def test_cached_prefixes_are_held_but_not_computed() -> None:
    request = Request(8000, 100, prefix_hit=0.9)
    warm = seen(at_concurrency(steps(), request, Room(hit=0.9), 4))
    cold = seen(at_concurrency(steps(), Request(8000, 100), Room(), 4))
    assert warm.ttft_s < 0.4 * cold.ttft_s


def test_what_cannot_be_followed_in_time_says_so() -> None:
    assert at_rate(steps(), Request(1e6, 1e5), Room(tokens=2e6), 1000.0) is None
