"""A part of what `make accuracy` judges, so that a change that costs accuracy does not wait for it."""

from __future__ import annotations

from tests.accuracy.speed import targets
from tests.accuracy.speed_fresh import fresh, table
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


def test_held_out_runs_keep_what_was_said_of_them_first() -> None:
    seen = {run.facts["source"] for run in read_runs()}
    runs = fresh()
    assert len({run.id for run in runs}) == len(runs) >= 40
    for run in runs:
        assert run.facts["source"].startswith("https://"), run.id
        assert run.facts["source"] not in seen, run.id
        assert run.facts["untouched"], run.id
        assert {"tpot", "tokens", "ttft", "refused"} >= set(run.facts["untouched"]), run.id
        assert run.facts.get("odd", "reason").strip(), run.id


def test_the_table_of_held_out_runs_counts_the_refused_ones() -> None:
    runs = fresh()
    refused = sum("refused" in run.facts["untouched"] for run in runs)
    assert f"{len(runs) - refused} of {len(runs)}" in table(runs)[1]
