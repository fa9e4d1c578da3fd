"""The plan as text. After a change that is meant, `python -m tests.unit.planning.test_render` writes the files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.planning.fleets import LAB, REFERENCE, inventory, models
from tests.unit.planning.test_short import small

from llmfleet.cli.render.names import compressed
from llmfleet.cli.render.plan import render_plan
from llmfleet.cli.render.plan_difference import render_question
from llmfleet.planner.difference import difference
from llmfleet.planner.make import make_plan
from llmfleet.planner.what_if import ask

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "reference-140": (REFERENCE, 140, False),
    "reference-100": (REFERENCE, 100, False),
    "reference-why-140": (REFERENCE, 140, True),
    "lab-100": (LAB, 100, False),
    "short-100": (small(rate=500), 100, False),
}


QUESTIONS = {
    "what-if-100": (100, ["+2 h20", "-node a800-1", "chat.rate=2x"]),
    "what-if-short-80": (80, ["-2 h20", "-gpu v100-0:1", "chat.ttft=1s"]),
}


def asked(width: int, terms: list[str]) -> str:
    fleet = inventory(REFERENCE)
    other = ask(terms, fleet)
    now, then = make_plan(fleet, models(fleet)), make_plan(other, models(other))
    out = io.StringIO()
    render_question(terms, now, then, difference(now, then), Console(file=out, width=width, highlight=False))
    text = out.getvalue().replace(now.hash[:6], "NOW").replace(then.hash[:6], "THEN")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def rendered(text: str, width: int, why: bool) -> str:
    fleet = inventory(text)
    out = io.StringIO()
    plan = make_plan(fleet, models(fleet))
    render_plan(plan, fleet, Console(file=out, width=width, highlight=False), why=why)
    lines = out.getvalue().replace(plan.hash[:6], "PLAN").splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_reads_as_it_was_read(case: str) -> None:
    assert rendered(*CASES[case]) == (GOLDEN / f"{case}.txt").read_text()


@pytest.mark.parametrize("case", QUESTIONS)
def test_an_answer_reads_as_it_was_read(case: str) -> None:
    said = asked(*QUESTIONS[case])
    assert said == (GOLDEN / f"{case}.txt").read_text()
    assert max(map(len, said.splitlines())) <= QUESTIONS[case][0]


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, rendered(REFERENCE, width, True).splitlines())) <= width


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), ""),
        (("a",), "a"),
        (("a800-0",), "a800-0"),
        (("a800-0", "a800-1"), "a800-[0-1]"),
        (("n01", "n02", "n04"), "n[01-02,04]"),
        (("b-2", "a-1", "b-1"), "b-[1-2], a-1"),
        (("front", "slot-a", "slot-b"), "front, slot-a, slot-b"),
    ],
)
def test_names_as_ranges(names: tuple[str, ...], said: str) -> None:
    assert compressed(names) == said


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, given in CASES.items():
        (GOLDEN / f"{name}.txt").write_text(rendered(*given))
    for name, question in QUESTIONS.items():
        (GOLDEN / f"{name}.txt").write_text(asked(*question))
