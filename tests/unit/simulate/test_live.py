"""The engine that is asked while time passes is the one of simulated runs, and forgets what it should."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.simulate.engines import one_engine, ran, stream, times_of

from llmfleet.planner.simulate.arrays import BLOCKS, EVICTABLE, FREE, LAST_TOKEN
from llmfleet.planner.simulate.live import LiveEngine, spec_of
from llmfleet.planner.simulate.speeds import tabled

REQUESTS = st.lists(
    st.tuples(st.floats(0, 0.2), st.integers(1, 900), st.integers(1, 60), st.integers(0, 6)), min_size=1, max_size=25
)


def live(**limits: int) -> LiveEngine:
    engine = one_engine(**limits).engines[0]
    return LiveEngine(spec_of(engine, tabled(engine.pace)))


def hashes(document: int, prompt: int) -> list[int]:
    return [hash((document, place)) for place in range(prompt // 16)]


def run(engine: LiveEngine, rows: list[tuple[float, int, int, list[int]]]) -> dict[int, list[float]]:
    """Requests as (seconds, prompt, answer, hashes); when each token of each was out."""
    out: dict[int, list[float]] = {i: [] for i in range(len(rows))}
    running: dict[int, int] = {}  # numbers are used again

    def until(time: float) -> None:
        while engine.ends <= time:
            now = engine.ends
            for token in engine.step():
                mine = out[running[token.request]]
                mine.append(now)
                assert len(mine) == token.n
                if token.done:
                    del running[token.request]

    for i, (at, prompt, answer, blocks) in enumerate(rows):
        until(at)
        number = engine.submit(blocks, prompt, answer, at)
        assert number not in running
        running[number] = i
    until(1e9)
    assert not running
    return out


@settings(max_examples=40)
@given(REQUESTS, st.sampled_from([66, 100, 400]), st.sampled_from([0, 100]))
def test_tokens_come_when_a_simulated_run_says_so(
    rows: list[tuple[float, int, int, int]], blocks: int, threshold: int
) -> None:
    arrival, asked = 0.0, []
    for gap, prompt, answer, _ in rows:
        arrival += gap
        asked.append((arrival, prompt, answer))
    engine = live(blocks=blocks, longest=1040, threshold=threshold)
    made = run(engine, [(at, p, a, []) for at, p, a in asked])
    simulated = ran(one_engine(blocks=blocks, longest=1040, threshold=threshold), stream(asked), most=1)
    expected = times_of(simulated)[:, LAST_TOKEN]
    assert [made[i][-1] for i in made] == pytest.approx(expected.tolist(), rel=1e-9)
    assert [len(made[i]) for i in made] == [a for _, _, a in asked]


def test_what_was_asked_before_is_found_and_gives_way_when_room_is_short() -> None:
    engine = live(blocks=80, longest=1040)
    found = []
    for i, document in enumerate([0, 1, 0, 2, 3, 0]):
        r = engine.submit(hashes(document, 500), 500, 3, 10.0 * i)
        while engine.ends < 1e9:
            engine.step()
        found.append(engine.cached(r))
    assert found == [0, 0, 496, 0, 0, 256], "the last blocks of document 0 made room for 3, its first are left"


@settings(max_examples=40)
@given(REQUESTS, st.integers(0, 24), st.floats(0, 0.5))
def test_whoever_hangs_up_leaves_nothing_behind(
    rows: list[tuple[float, int, int, int]], quitter: int, after: float
) -> None:
    engine = live(blocks=100, longest=1040)
    clock, names = 0.0, []
    for gap, prompt, answer, document in rows:
        clock += gap
        while engine.ends <= clock:
            engine.step()
        names.append(engine.submit(hashes(document, prompt), prompt, answer, clock))
    while engine.ends <= clock + after:
        engine.step()
    engine.abort(names[quitter % len(names)])
    while engine.ends < 1e9:
        engine.step()
    figures = engine.figures()
    assert (figures["running"], figures["waiting"], figures["kv_usage"]) == (0, 0, 0)
    state = engine._world.engine
    assert state[FREE] + state[EVICTABLE] == state[BLOCKS]
    assert not engine._made and not engine._queued


def test_a_slow_engine_is_slow_and_a_full_one_says_so() -> None:
    usual, slow = live(cap=2), live(cap=2)
    slow.slow_down(3.0)
    first, second = (run(e, [(0.0, 200, 20, [])])[0] for e in (usual, slow))
    assert second == pytest.approx([3 * t for t in first])
    usual.submit([], 100, 5, 100.0)
    assert not usual.full
    usual.submit([], 100, 5, 100.0)
    assert usual.full


def test_many_requests_use_few_numbers() -> None:
    engine = live(blocks=60, longest=900)
    for i in range(500):
        engine.submit(hashes(i, 300), 300, 2, float(i))
        while engine.ends < 1e9:
            engine.step()
    assert len(engine._world.times) < 200
