"""A trace as the traffic of a plan: rate, peak, lengths, shared prefixes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llmfleet.cli.workspace import read_inventory
from llmfleet.planner.candidates.lengths import length_model
from llmfleet.planner.errors import InventoryError
from llmfleet.planner.inventory.asked import Traffic
from llmfleet.planner.traffic.summary import traffic_of
from llmfleet.planner.traffic.traces import read_trace

FLEET = """
cluster: c
nodes:
  - {name: n, host: h, gpus: 2 x L4}
services:
  - {name: chat, model: Qwen/Qwen2.5-7B-Instruct, traffic: {trace: day.csv, growth: 1.5}}
"""


def azure(requests: int = 3000, *, busy: float = 3.0, seed: int = 7) -> str:
    """An hour at 0.5 requests/s, ten minutes of it `busy` times as fast; lengths as wide as people's."""
    rng, at, lines = random.Random(seed), 0.0, ["TIMESTAMP,ContextTokens,GeneratedTokens"]  # noqa: S311
    for _ in range(requests):
        at += rng.expovariate(0.5 * (busy if 1200 <= at < 1800 else 1))
        prompt, answer = (max(1, int(rng.lognormvariate(mu, 0.9))) for mu in (6.5, 5))
        hour, minute, second = 18 + int(at // 3600), int(at % 3600 // 60), at % 60
        lines.append(f"2023-11-16 {hour:02}:{minute:02}:{second:010.7f},{prompt},{answer}")
    return "\n".join(lines) + "\n"


def mooncake(documents: int = 4, requests: int = 400) -> str:
    """Questions on a few documents of 4 blocks, each with a block of its own behind."""
    rng = random.Random(3)  # noqa: S311
    rows = []
    for i in range(requests):
        document = rng.randrange(documents)
        ids = [document * 4 + b for b in range(4)] + [1000 + i]
        rows.append({"timestamp": i * 500, "input_length": 5 * 512, "output_length": 100, "hash_ids": ids})
    return "\n".join(map(json.dumps, rows))


def test_rate_peak_and_lengths_come_from_the_trace() -> None:
    trace = read_trace(azure(), "day.csv")
    found = traffic_of(trace, Traffic(trace="day.csv"))
    assert found.rate == pytest.approx(len(trace) / trace[-1].at, rel=1e-4)
    assert 1.5 < found.peak < 3.5
    assert found.input.mean == pytest.approx(sum(t.prompt for t in trace) / len(trace), abs=1)
    assert sorted(found.input.quantiles) == list(found.input.quantiles)
    lengths = length_model(found.input)
    over = sum(t.prompt > 2000 for t in trace) / len(trace)
    assert lengths.part_over(2000) == pytest.approx(over, abs=0.01)
    usual = [t.prompt for t in trace if 500 < t.prompt <= 2000]
    assert lengths.mean_between(500, 2000) == pytest.approx(sum(usual) / len(usual), rel=0.03)


def test_what_is_written_wins_over_the_trace() -> None:
    trace = read_trace(azure(), "day.csv")
    found = traffic_of(trace, Traffic.model_validate({"trace": "d", "rate": 9, "peak": 1, "output": {"mean": 5}}))
    assert (found.rate, found.peak, found.output.mean) == (9, 1, 5)
    assert found.input.quantiles


def test_shared_prefixes_come_from_hash_ids() -> None:
    found = traffic_of(read_trace(mooncake(), "m"), Traffic(trace="m"))
    assert found.shared_prefix == pytest.approx((400 - 4) * 4 / (400 * 5), abs=0.001)
    assert found.rate == pytest.approx(2, rel=0.01)


def test_a_steady_trace_has_no_peak() -> None:
    assert traffic_of(read_trace(mooncake(), "m"), Traffic(trace="m")).peak == pytest.approx(1, abs=0.02)


def test_it_is_found_from_the_folder_of_the_inventory(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(FLEET)
    (tmp_path / "day.csv").write_text(azure())
    traffic = read_inventory(tmp_path / "inventory.yaml").services[0].traffic
    assert traffic is not None
    assert traffic.rate > 0
    assert traffic.growth == 1.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file"),
        ("a,b,c\n1,2,3\n", "day.csv:1:"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n2,x,3\n", "day.csv:3: '2,x,3' is no request"),
        ("", "holds no request"),
        ('{"timestamp": 0, "input_length": 5}\n', "day.csv:1:"),
        ('{"timestamp": 1e400, "input_length": 5, "output_length": 5}\n', "day.csv:1:"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5}\n', "day.csv:1:"),
        ('{"timestamp": 0, "input_length": Infinity, "output_length": 5}\n', "day.csv:1:"),
    ],
)
def test_broken_traces_are_told_with_both_places(tmp_path: Path, text: str | None, said: str) -> None:
    (tmp_path / "inventory.yaml").write_text(FLEET)
    if text is not None:
        (tmp_path / "day.csv").write_text(text)
    with pytest.raises(InventoryError) as error:
        read_inventory(tmp_path / "inventory.yaml")
    (problem,) = error.value.problems
    assert (problem.line, problem.path) == (6, "services[0].traffic.trace")
    assert said in problem.message
