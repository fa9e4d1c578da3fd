"""The search for the highest load inside the SLO, over servers that are rules: nothing is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmfleet.launch.bench.client import address
from llmfleet.launch.bench.figures import Figures, Limits
from llmfleet.launch.bench.measure import KNEE_WIDTH, THE_SLO, Bench, Plan, Target
from llmfleet.launch.bench.prompts import Shape

Server = Callable[[float], float]  # from requests/s to the share inside the SLO


class Scripted(Bench):
    def __init__(self, server: Server) -> None:
        target = Target("chat", address("http://127.0.0.1:9"), "m", "generate")
        super().__init__(target, Plan(Shape(10.0, None, 5.0), Limits(1.0), warm=0), lambda *_: None)
        self.server, self.tried = server, list[float]()

    def _alone(self) -> Figures:
        return self._at_rate(0.0)

    def _at_rate(self, rate: float) -> Figures:
        self.tried.append(rate)
        attained = self.server(rate)
        return Figures(
            users=None, rate_rps=rate, requests=100, errors={}, seconds=1.0, ttft_ms={}, tpot_ms={}, itl_ms={},
            e2e_ms={}, requests_per_s=rate, output_tokens_per_s=0.0, total_tokens_per_s=0.0,
            goodput_rps=rate * attained, attained=attained, prompt_tokens=10.0, answer_tokens=5.0,
            prefix_hit_rate=None, degraded=0.0, client_cpu=0.0, client_late_ms=0.0,
        )  # fmt: skip


@pytest.mark.parametrize("most", [0.3, 5.0, 17.0])
def test_the_highest_rate_inside(most: float) -> None:
    knee = Scripted(lambda rate: 1.0 if rate <= most else 0.5).knee(4.0)
    assert knee.rate_rps <= most <= knee.rate_rps * KNEE_WIDTH
    assert knee.bounded_by == THE_SLO


def test_what_a_request_alone_misses_is_not_searched_for() -> None:
    bench = Scripted(lambda _: 0.0)
    knee = bench.knee(4.0)
    assert (knee.rate_rps, knee.bounded_by) == (0.0, f"{THE_SLO}, which a request alone misses")
    assert bench.tried == [0.0], "a hundred requests at a thousandth a second take a day"


def test_a_server_without_a_bound() -> None:
    knee = Scripted(lambda _: 1.0).knee(1.0)
    assert knee.rate_rps > 1000 and knee.bounded_by == "nothing yet"
