"""The mixed-integer program by itself: counts that start as fractions, objectives that are kept."""

from __future__ import annotations

import pytest

from llmfleet.planner.choose.program import MANY, Program


def test_an_objective_is_kept_while_the_next_is_searched_for() -> None:
    program = Program()
    x, y = program.column(10), program.column(10)
    program.at_most({x: 1.0, y: 1.0}, 10.0)
    assert program.maximize("x", {x: 1.0}) == pytest.approx(10)
    assert program.maximize("y", {y: 1.0}) == pytest.approx(0, abs=1e-3)


def test_a_bound_in_reach_is_reached_though_the_search_may_stop_earlier() -> None:
    program = Program()
    columns = [program.column(1, integer=True) for _ in range(30)]
    weights = {c: 1.0 + (7 * c % 11) / 10 for c in columns}
    program.at_most(weights, 20.0)
    assert program.maximize("filled", weights, bound=20.0, gap=0.5, tolerance=0.5) == pytest.approx(20)
    assert program.proofs[-1].full
    assert program.maximize("few", dict.fromkeys(columns, -1.0)) < -8  # nothing of the first was given up


def test_beyond_what_can_be_reached_a_part_may_be_given_up() -> None:
    program = Program()
    x, y = program.column(10), program.column(10)
    program.at_most({x: 1.0, y: 1.0}, 10.0)
    assert program.maximize("x", {x: 1.0}, bound=20.0, tolerance=0.1) == pytest.approx(10)
    assert program.maximize("y", {y: 1.0}) == pytest.approx(1)


def test_what_is_settled_stays() -> None:
    program = Program()
    x, y = program.column(1, integer=True), program.column(1, integer=True)
    program.at_most({x: 1.0, y: 1.0}, 1.0)
    program.maximize("either", {x: 1.0, y: 0.9})
    program.settle([x, y])
    assert program.maximize("the other", {y: 1.0}) == pytest.approx(0)


def test_what_fractions_reached_does_not_bind_whole_numbers() -> None:
    program = Program()
    x = program.column(4 * MANY, integer=True)
    program.at_most({x: 2.0}, 2.0 * MANY + 1)
    assert program.maximize("x", {x: 1.0}) == pytest.approx(MANY + 0.5)
    program.minimize("x again", {x: -1.0}, bound=-1e9)
    assert program.relaxed
    program.round()
    assert program.maximize("x", {x: 1.0}) == pytest.approx(MANY)
    assert [proof.value for proof in program.proofs] == pytest.approx([MANY])
