"""A part of what `make accuracy` judges, so that a change that costs accuracy does not wait for it."""

from __future__ import annotations

from tests.accuracy.speed import targets
from tests.accuracy.speed_rows import read_runs

EVERY = 7


def test_targets_hold_on_a_part_of_the_runs() -> None:
    judged = [run for run in read_runs() if run.judged]
    assert len(judged) > 450
    assert [str(target) for target in targets(judged[::EVERY]) if not target.met] == []


def test_every_run_has_its_source_and_every_odd_one_its_reason() -> None:
    for run in read_runs():
        assert run.facts["source"], run.id
        assert run.facts.get("odd", "reason").strip(), run.id
    names = [run.id for run in read_runs()]
    assert len(names) == len(set(names))
