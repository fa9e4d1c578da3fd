"""Which load `llmfleet bench` puts on an instance; the instance is a double that says what was asked of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmfleet.cli import bench as command
from llmfleet.cli.bench_asked import Asked
from llmfleet.cli.bench_options import Options
from llmfleet.launch.bench.client import address
from llmfleet.launch.bench.figures import Limits
from llmfleet.launch.bench.measure import Load, Plan, Target
from llmfleet.launch.bench.prompts import Shape

ASKED = Asked(
    Target("chat", address("http://127.0.0.1:9"), "m", "generate"), Plan(Shape(10.0, None, 5.0), Limits())
)  # fmt: skip
REACHED = 8.0  # requests a second


class Double:
    loads: list[Load]

    def __init__(self, *_: object) -> None:
        Double.loads = []

    def look(self) -> None:
        pass

    def measure(self, load: Load) -> Any:
        Double.loads.append(load)
        return SimpleNamespace(figures=SimpleNamespace(requests_per_s=REACHED))


def options(*, users: int | None = None, rate: float | None = None) -> Options:
    return Options(
        users=users, rate=rate, trace=None, requests=10, repeats=1, warm=0, input_len=None, output_len=None,
        input_p99=None, shared=None, documents=1, text=None, ttft=None, tpot=None, seed=0, key_env=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "calibrate", "loads"),
    [
        (options(), False, [Load(users=16)]),
        (options(users=3), True, [Load(users=3)]),
        (options(rate=2.0), True, [Load(rate=2.0)]),
        (options(), True, [Load(users=16), Load(rate=command.MODERATE * REACHED)]),
    ],
)
def test_a_calibration_without_a_load_is_measured_at_random_times(
    given: Options, calibrate: bool, loads: list[Load], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Bench", Double)
    command._one(ASKED, given, knee=False, calibrate=calibrate, quiet=True)
    assert Double.loads == loads
