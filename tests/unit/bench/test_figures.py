"""What is made of samples: percentiles, goodput, and when a figure is the client's own."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.launch.bench.figures import Figures, Limits, figures, percentile
from llmfleet.launch.bench.load import Run
from llmfleet.launch.bench.plot import latency_svg, page
from llmfleet.launch.bench.prompts import Prompts, Shape
from llmfleet.launch.bench.stream import Sample


def sample(
    sent: float, ttft: float, tpot: float, *, answer: int = 11, error: str = "", due: float | None = None
) -> Sample:
    made = Sample(sent if due is None else due, sent, sent + ttft, sent + ttft + (answer - 1) * tpot, error=error)
    made.answer, made.prompt, made.cached, made.gaps = answer, 100, 40, [tpot] * (answer - 1)
    return made


def got(*samples: Sample, cpu: float = 0.1, rate: float | None = None) -> Figures:
    return figures(Run(samples, 10.0, cpu, None if rate else 4, rate), Limits(1.0, 0.1))


def test_figures_of_a_run() -> None:
    f = got(sample(0, 0.5, 0.05), sample(1, 0.7, 0.05), sample(2, 3.0, 0.05), sample(3, 0.1, 0.01, error="HTTP 503"))
    assert f.requests == 4 and f.errors == {"HTTP 503": 1}
    assert f.ttft_ms["p50"] == 700 and f.tpot_ms["p50"] == 50 and f.itl_ms["p99"] == 50
    assert (f.requests_per_s, f.output_tokens_per_s, f.total_tokens_per_s) == (0.3, 3.3, 33.3)
    assert (f.goodput_rps, f.attained) == (0.2, 0.5), "an error and a late first token are no good put"
    assert f.prefix_hit_rate == 0.4
    assert f.client_limited is None


def test_the_clients_own_limits_are_said() -> None:
    assert "waited for itself" in str(got(sample(0, 0.5, 0.05), cpu=0.95).client_limited)
    late = got(sample(1.2, 0.5, 0.05, due=1.0), rate=1.0)
    assert "sent 200 ms late" in str(late.client_limited)
    assert got(sample(1.004, 0.5, 0.05, due=1.0), rate=1.0).client_limited is None
    assert got(sample(1.2, 0.5, 0.05, due=1.0)).client_limited is None, "in a closed loop nothing is due"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0, 50, 95, 99, 100]))
def test_percentiles_are_numpys(values: list[float], p: float) -> None:
    assert percentile(sorted(values), p) == pytest.approx(float(np.percentile(values, p)))


def test_pictures_are_well_formed_and_show_every_point() -> None:
    points = [got(sample(0, 0.2 * n, 0.02 * n), rate=float(n)) for n in (1, 2, 3)]
    picture = latency_svg("chat <a> & b", points, Limits(0.5, None))
    root = ElementTree.fromstring(picture)  # noqa: S314
    assert len(root.findall(".//{*}circle")) == 2 * 2 * 3
    assert len([p for p in root.findall(".//{*}path") if p.get("stroke-dasharray")]) == 1
    assert picture in page("bench", [picture])


def prompts(shape: Shape, **options: object) -> list[dict[str, object]]:
    made = Prompts("m", "generate", shape, 3, **options)  # type: ignore[arg-type]
    return [json.loads(body) for body in islice(made, 300)]


def test_prompts_have_the_lengths_asked_for_and_share_what_they_should() -> None:
    lengths = [len(str(p["prompt"])) for p in prompts(Shape(200, 800, 30))]
    assert np.mean(lengths) == pytest.approx(800, rel=0.1), "four bytes a token"
    assert np.percentile(lengths, 99) == pytest.approx(3200, rel=0.35)
    fixed = prompts(Shape(100, None, 20, shared=0.5, documents=2), bytes_a_token=5.0)
    assert {len(str(p["prompt"])) for p in fixed} == {500}
    begun = {str(p["prompt"])[:250] for p in fixed}
    assert len(begun) == 2
    assert len({str(p["prompt"])[250:] for p in fixed}) == 300
    assert {p["max_tokens"] for p in fixed} == {20} and all(p["ignore_eos"] for p in fixed)


def test_prompts_on_one_document_are_of_like_lengths() -> None:
    asked = [str(p["prompt"]) for p in prompts(Shape(2000, 20_000, 10, shared=0.5, documents=10))]
    by_document: dict[str, list[int]] = {}
    for prompt in asked:
        by_document.setdefault(" ".join(prompt.split()[:2]), []).append(len(prompt))
    assert sorted(by_document) == [f"document {n}" for n in range(10)]
    assert max(by_document.items(), key=lambda item: len(item[1]))[0] == "document 0"
    ends = sorted((min(lengths), max(lengths)) for lengths in by_document.values())
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_prompts_come_from_a_text_fit_the_context_and_repeat_with_the_seed(tmp_path: Path) -> None:
    text = "All human beings are born free and equal in dignity and rights. " * 50
    made = prompts(Shape(500, 5000, 100, 400, longest=600), text=text)
    assert all(len(str(p["prompt"])) / 4 + int(str(p["max_tokens"])) <= 600 for p in made)
    assert all(str(p["prompt"])[13:] in text for p in made)
    assert made == prompts(Shape(500, 5000, 100, 400, longest=600), text=text)


def test_a_traces_blocks_are_equal_text() -> None:
    made = Prompts("m", "chat", Shape(1), 0)
    rows = [(1100, 5, (7, 8)), (1030, 6, (7, 9)), (90, 7, (7,))]
    asked = [json.loads(body) for body in made.sized(rows)]
    texts = [str(a["messages"][0]["content"]) for a in asked]
    assert [len(t) for t in texts] == [4400, 4120, 360]
    assert texts[0][:2048] == texts[1][:2048] and texts[0][2048:4096] != texts[1][2048:4096]
    assert [a["max_tokens"] for a in asked] == [5, 6, 7]


def test_texts_to_embed_and_to_rank() -> None:
    one = next(iter(Prompts("m", "embed", Shape(50), 0)))
    assert len(json.loads(one)["input"]) == 200
    ranked = json.loads(next(iter(Prompts("m", "rerank", Shape(500), 0))))
    assert len(ranked["documents"]) == 9 and ranked["query"]
