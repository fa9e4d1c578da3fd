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
