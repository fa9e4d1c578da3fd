"""Whole runs: deterministic, in step with the traffic, and beside the formula's answer."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.unit.simulate.engines import FLEET, planned

from llmfleet.cli.app import main
from llmfleet.planner.errors import InputError
from llmfleet.planner.simulate import compiled
from llmfleet.planner.simulate.report import Report
from llmfleet.planner.simulate.requests import drawn, replayed, with_documents
from llmfleet.planner.simulate.simulate import Scenario, simulate
from llmfleet.planner.simulate.verify import verify
from llmfleet.planner.traffic.traces import read_trace

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:47.1805900,39,0\n"
)
MOONCAKE = (
    '{"timestamp": 1000, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, 9]}\n'
    '{"timestamp": 3500, "input_length": 1030, "output_length": 9, "hash_ids": [7, 8, 11]}\n'
)


def run(**changes: object) -> Report:
    return simulate(*planned(), Scenario(**{"requests": 1500, **changes}))  # type: ignore[arg-type]


def test_equal_seeds_give_equal_reports_and_others_do_not() -> None:
    assert run() == run()
    assert run().services != run(seed=1).services


def test_the_report_adds_up() -> None:
    report = run()
    service = report.services[0]
    assert report.source == "simulated"
    assert service.rate_rps == pytest.approx(20, rel=0.1)
    assert sum(i.requests for i in report.instances) == 1500
    assert 0 <= service.attained <= 1
    assert service.goodput_rps <= service.rate_rps
    assert service.ttft_ms["p50"] <= service.ttft_ms["p95"] <= service.ttft_ms["p99"]
    assert 0.2 < service.prefix_hit_rate <= 0.5


def test_more_load_is_never_better() -> None:
    attained = [run(load=load).services[0].attained for load in (0.5, 8, 40)]
    assert attained == sorted(attained, reverse=True)
    assert attained[-1] < 0.9


def test_formula_and_simulation_see_the_same_fleet() -> None:
    decision, plan = planned()
    report = simulate(decision, plan, Scenario(requests=3000, documents=1, policy="weights"))
    one = verify(decision, plan, report)[0]
    assert one.agree and one.simulated_met
    assert one.simulated_running == pytest.approx(one.planned_running, rel=0.25)


def test_drawn_traffic_is_what_was_asked_for() -> None:
    demand = planned()[0].demands[0]
    made = drawn(demand, 20_000, np.random.default_rng(0))
    assert made.prompt.mean() == pytest.approx(1000, rel=0.05)
    assert made.answer.mean() == pytest.approx(100, rel=0.05)
    assert 20_000 / made.arrival[-1] == pytest.approx(20, rel=0.05)
    shared = np.add.reduceat(np.append(made.tokens[made.segments], 0), np.minimum(made.first[:-1], len(made.segments)))
    shared[np.diff(made.first) == 0] = 0
    assert shared.sum() / made.prompt.sum() == pytest.approx(0.5, abs=0.03)
    assert (shared <= made.prompt).all()


def test_traces_are_read_in_both_layouts() -> None:
    azure = read_trace(AZURE, "a.csv")
    assert [(r.at, r.prompt, r.answer) for r in azure] == [(0.0, 374, 44), (pytest.approx(0.5), 39, 1)]
    mooncake = read_trace(MOONCAKE, "m.jsonl")
    assert [(r.at, r.prompt, r.answer, r.blocks) for r in mooncake] == [
        (0.0, 1100, 5, (7, 8, 9)),
        (2.5, 1030, 9, (7, 8, 11)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no request"),
        ("a,b\n1,2\n", "t:1: columns a, b"),
        (AZURE + "later,12\n", "t:4: 'later,12'"),
        (AZURE + "nan,12,3\n", "t:4:"),
        (MOONCAKE + "{}\n", "t:3: '{}'"),
        (MOONCAKE + "{\n", "t:3:"),
        (MOONCAKE + "[1]\n", "t:3:"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("[", r"\[")):
        read_trace(text, "t")


def test_a_trace_keeps_its_shared_blocks() -> None:
    demand = planned()[0].demands[0]
    made = replayed(demand, read_trace(MOONCAKE, "m"), np.random.default_rng(0), speed=2)
    assert made.arrival.tolist() == [0, 1.25]
    assert made.first.tolist() == [0, 2, 4]
    assert made.segments.tolist() == [0, 1, 0, 1]
    assert made.start.tolist() == [0, 512]
    assert len(set(made.key.tolist())) == 1


def test_the_command_prints_a_table_or_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(FLEET)
    assert main(["simulate", str(inventory), "-n", "500"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("simulated: 500 requests to plan")
    assert "chat" in shown and "H100" in shown
    assert main(["simulate", str(inventory), "-n", "300", "--policy", "all", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["source"] == "simulated"
    assert [r["policy"] for r in body["runs"]] == ["router", "round-robin", "least-request", "weights", "affinity"]
    (tmp_path / "t.jsonl").write_text(MOONCAKE)
    assert main(["simulate", str(inventory), "--trace", f"chat={tmp_path / 't.jsonl'}"]) == 0
    assert "2 requests" in capsys.readouterr().out
    assert main(["simulate", str(inventory), "-n", "3000", "--load", "60"]) == 1, "the SLO is missed"


@pytest.mark.parametrize(
    ("trace", "said"),
    [("x.csv", "which service"), ("chta=x.csv", "Nearest: chat"), ("chat=none.csv", "cannot be read")],
)
def test_traces_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], trace: str, said: str) -> None:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(FLEET)
    assert main(["simulate", str(inventory), "--trace", trace]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.live
def test_compiled_code_gives_the_same_figures() -> None:
    """In a process of its own, where numba compiles."""
    pytest.importorskip("numba")
    code = (
        "from tests.unit.simulate.engines import planned\n"
        "from llmfleet.planner.simulate.compiled import COMPILES\n"
        "from llmfleet.planner.simulate.simulate import Scenario, simulate\n"
        "assert COMPILES\n"
        "print(simulate(*planned(), Scenario(requests=1500)))\n"
    )
    root = Path(__file__).resolve().parents[3]
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"NUMBA_DISABLE_JIT": "0"}, capture_output=True, text=True
    )
    assert made.stdout.strip() == str(run()), made.stderr


def test_compiled_code_is_kept_by_the_code_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba itself only looks at the file of the function that is called, not at those that it calls."""
    kept_in = compiled._kept_in.__wrapped__
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    (tmp_path / "arrays.py").write_text("WIDTH = 27\n")
    before = kept_in()
    assert Path(before).parent == tmp_path / "__pycache__" and before == kept_in()
    (tmp_path / "arrays.py").write_text("WIDTH = 28\n")
    assert kept_in() != before


def test_prompts_on_one_document_are_of_like_lengths() -> None:
    prompt = np.random.default_rng(3).lognormal(10, 1, 5000).astype(np.int64)
    made = with_documents("chat", np.arange(5000.0), prompt, prompt, 0.5, 10, np.random.default_rng(0))
    counts = np.bincount(made.key, minlength=10)[:10]
    np.testing.assert_allclose(counts / counts[0], 1 / np.arange(1, 11), atol=0.05)
    ends = sorted((prompt[made.key == d].min(), prompt[made.key == d].max()) for d in range(10))
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
