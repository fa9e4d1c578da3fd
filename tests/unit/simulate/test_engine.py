"""One simulated engine: its times are the speed model's, its blocks add up, and steps taken at once change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.simulate.engines import one_engine, ran, requests_of, stream, times_of

from llmfleet.planner.simulate.arrays import (
    ARRIVAL,
    BLOCKS,
    DONE,
    EVICTABLE,
    FIRST_TOKEN,
    FREE,
    LAST_TOKEN,
    NODE,
    PREEMPTED,
    R_CACHED,
    R_OUTCOME,
    R_TRIES,
    REFUSED,
    TOO_LONG,
    USERS,
)

REQUESTS = st.lists(
    st.tuples(st.floats(0, 0.2), st.integers(1, 900), st.integers(1, 120), st.integers(0, 6)), min_size=1, max_size=40
)


def many(rows: list[tuple[float, int, int, int]]):  # type: ignore[no-untyped-def]
    """Arrivals as gaps; prompts begin with up to six segments of one of two documents."""
    arrivals = np.cumsum([gap for gap, *_ in rows])
    shared = [[6 * (i % 2) + n for n in range(min(s, p // 64))] for i, (_, p, _, s) in enumerate(rows)]
    return stream([(float(t), p, a) for t, (_, p, a, _) in zip(arrivals, rows, strict=True)], shared)


def test_one_request_takes_what_the_speed_model_says() -> None:
    fleet = one_engine()
    steps = fleet.engines[0].pace.steps
    times = times_of(ran(fleet, stream([(1.0, 400, 50)])))[0]
    prefill = steps.step_s(1, 0, 399) + steps.prompt_attention_s(400, 0)
    decode = sum(steps.step_s(1, 400 + i) for i in range(49))
    assert times[FIRST_TOKEN] - times[ARRIVAL] == pytest.approx(prefill, rel=0.02)
    assert times[LAST_TOKEN] - times[FIRST_TOKEN] == pytest.approx(decode, rel=0.002)


def test_a_prompt_longer_than_a_step_is_cut() -> None:
    fleet = one_engine(chunk=256)
    steps = fleet.engines[0].pace.steps
    times = times_of(ran(fleet, stream([(0.0, 700, 1)])))[0]
    expected = 2 * steps.step_s(1, 0, 256) + steps.step_s(1, 0, 187) + steps.prompt_attention_s(700, 0)
    assert times[FIRST_TOKEN] == pytest.approx(expected, rel=0.02)
    assert times[LAST_TOKEN] == times[FIRST_TOKEN]


def test_a_short_prompt_passes_a_long_one_where_a_threshold_leaves_it_room() -> None:
    rows = [(0.0, 2000, 2), (0.001, 100, 2)]
    alone, shared = (times_of(ran(one_engine(chunk=256, threshold=t), stream(rows))) for t in (0, 64))
    assert alone[1, FIRST_TOKEN] > alone[0, FIRST_TOKEN], "it waits for all of the long one"
    assert shared[1, FIRST_TOKEN] < alone[1, FIRST_TOKEN] / 2
    assert shared[0, FIRST_TOKEN] > alone[0, FIRST_TOKEN]


def test_a_threshold_is_none_for_the_only_request() -> None:
    rows = [(0.0, 2000, 2), (60.0, 1500, 2)]
    plain, limited = (times_of(ran(one_engine(chunk=256, threshold=t), stream(rows))) for t in (0, 64))
    np.testing.assert_array_equal(plain, limited)


@settings(max_examples=60)
@given(REQUESTS, st.sampled_from([60, 100, 400]), st.sampled_from([0, 100]))
def test_steps_taken_at_once_are_the_steps_one_by_one(
    rows: list[tuple[float, int, int, int]], blocks: int, threshold: int
) -> None:
    fleet = one_engine(blocks=blocks, longest=1040, threshold=threshold)
    at_once, one_by_one = ran(fleet, many(rows)), ran(fleet, many(rows), most=1)
    np.testing.assert_allclose(times_of(at_once), times_of(one_by_one), rtol=1e-4, atol=1e-6)
    assert (requests_of(at_once)[:, R_CACHED] == requests_of(one_by_one)[:, R_CACHED]).all()


@settings(max_examples=60)
@given(REQUESTS, st.sampled_from([66, 100, 400]), st.sampled_from([0, 40, 100]))
def test_every_request_ends_and_every_block_comes_back(
    rows: list[tuple[float, int, int, int]], blocks: int, threshold: int
) -> None:
    world = ran(one_engine(blocks=blocks, longest=1040, threshold=threshold), many(rows))
    request, times = requests_of(world), times_of(world)
    assert (request[:, R_OUTCOME] == DONE).all()
    assert (times[:, FIRST_TOKEN] > times[:, ARRIVAL]).all()
    assert (times[:, LAST_TOKEN] >= times[:, FIRST_TOKEN]).all()
    assert world.engine[FREE] + world.engine[EVICTABLE] == world.engine[BLOCKS]
    assert world.engine[FREE] >= 0
    assert not np.asarray(world.node).reshape(-1, NODE)[:, USERS].any()


def test_the_second_prompt_finds_the_first_ones_blocks() -> None:
    rows = [(0.0, 500, 10), (5.0, 500, 10), (10.0, 320, 1)]
    world = ran(one_engine(), stream(rows, [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]))
    assert requests_of(world)[:, R_CACHED].tolist() == [0, 256, 256]
    times = times_of(world)
    first = times[:, FIRST_TOKEN] - times[:, ARRIVAL]
    assert first[1] < first[0]


def test_a_whole_prompt_in_the_cache_still_computes_its_last_token() -> None:
    world = ran(one_engine(), stream([(0.0, 256, 2), (5.0, 256, 2)], [[0, 1, 2, 3], [0, 1, 2, 3]]))
    assert requests_of(world)[:, R_CACHED].tolist() == [0, 255]


def test_least_recently_used_blocks_go_first() -> None:
    """Room for two documents of 32 blocks and little more: the third displaces the first, not the second."""
    documents = [list(range(8 * d, 8 * d + 8)) for d in range(3)]
    order = [0, 1, 0, 1, 2, 1, 0]
    rows = [(10.0 * i, 514, 1) for i in range(len(order))]
    cached = requests_of(ran(one_engine(blocks=70), stream(rows, [documents[d] for d in order])))[:, R_CACHED]
    assert cached[2] == 512 and cached[3] == 512
    assert cached[4] == 0
    assert cached[5] == 512, "document 1 was used last before document 2 came"
    assert cached[6] < 512


def test_without_room_the_last_one_starts_over_and_all_still_end() -> None:
    """Eight answers that grow to 30 blocks each, in 100 blocks."""
    world = ran(one_engine(blocks=100), stream([(0.0, 100, 380)] * 8))
    assert world.engine[PREEMPTED] > 0
    assert (requests_of(world)[:, R_OUTCOME] == DONE).all()


def test_beyond_its_places_an_engine_refuses() -> None:
    world = ran(one_engine(cap=3), stream([(0.0, 100, 50)] * 5))
    request = requests_of(world)
    assert request[:, R_OUTCOME].tolist() == [DONE] * 3 + [REFUSED] * 2
    assert request[:, R_TRIES].tolist() == [1] * 3 + [6] * 2


def test_what_no_instance_takes_is_said_to_be_too_long() -> None:
    assert requests_of(ran(one_engine(), stream([(0.0, 2000, 100)])))[0, R_OUTCOME] == TOO_LONG
