"""llmfleet plan --what-if, with the real planner on a fleet of two CPU slots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fleet import Run
from test_cli_plan import INVENTORY

from llmfleet.cli.what_if_words import one_option_a_term

OPTIONS = {"--what-if", "--json", "--out", "-q"}


@pytest.fixture(autouse=True)
def inventory(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("--what-if A B", "--what-if A --what-if B"),
        ("--what-if -node\u00a0a -x", "--what-if -node\u00a0a --what-if -x"),
        ("--what-if A --json B", "--what-if A --json B"),
        ("--what-if A fleet.yaml B", "--what-if A fleet.yaml B"),
        ("--what-if --json A", "--what-if --json --what-if A"),
        ("--what-if=A B", "--what-if=A --what-if B"),
        ("--what-if A --what-if B C -q", "--what-if A --what-if B --what-if C -q"),
        ("fleet.yaml --out x", "fleet.yaml --out x"),
        ("--what-if", "--what-if"),
    ],
)
def test_words_become_terms(typed: str, parsed: str) -> None:
    assert [*one_option_a_term(typed.split(" "), OPTIONS)] == parsed.split(" ")


def test_the_difference_is_shown_and_nothing_is_written(run: Run, inventory: Path) -> None:
    ran = run("plan", "--what-if", "+1 slot", "-node slot-0", "chat.rate=2x")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "small: what if +1 slot · -node slot-0 · chat.rate=2x"
    assert lines[1].endswith("then. Nothing is written.")
    assert "Short of nothing then." in lines
    assert any(line.split()[:1] == ["chat"] and "0.1 → 0.2/s" in line for line in lines)
    assert any(line.split()[:4] == ["−", "1", "×", "1"] and "chat on slot-0:" in line for line in lines)
    assert any(line.split()[:4] == ["+", "1", "×", "1"] and "chat on slot-2:" in line for line in lines)
    assert [p.name for p in inventory.parent.iterdir()] == ["inventory.yaml"]


def test_a_fleet_that_would_be_short(run: Run) -> None:
    ran = run("plan", "--what-if", "chat.rate=1000")
    assert "chat would be short." in ran.out
    assert "+  chat is short: 1e+03 req/s at the peak" in ran.out


def test_nothing_changes(run: Run) -> None:
    assert "  =  all as they are" in run("plan", "--what-if", "chat.rate=1x").out


def test_json(run: Run, inventory: Path) -> None:
    body = json.loads(run("plan", "inventory.yaml", "--json", "--what-if", "-1 slot").out)
    assert body["what_if"] == ["-1 slot"]
    assert [i["id"] for i in body["difference"]["removed"]] == ["chat-slot-1-0"]
    assert body["plan"]["hash"] == body["difference"]["after"]
    assert {i["nodes"][0] for i in body["plan"]["instances"]} == {"slot-0"}
    assert not (inventory.parent / ".llmfleet").exists()


def test_another_model_is_looked_up(run: Run) -> None:
    assert "chat.model" in run("plan", "--what-if", "chat.model=Qwen/Qwen2.5-1.5B-Instruct").out
    ran = run("plan", "--what-if", "chat.model=Qwen/Qwen2.5-1.5B-Instrct")
    assert ran.code == 2
    assert ran.err.startswith('error: what if chat.model=Qwen/Qwen2.5-1.5B-Instrct: "Qwen/Qwen2.5-1.5B-Instrct" is no')
    assert "Nearest: Qwen/Qwen2.5-1.5B-Instruct" in ran.err


def test_bad_terms(run: Run) -> None:
    ran = run("plan", "--what-if", "chat.rat=2x", "more")
    assert ran.code == 2
    assert 'what if "chat.rat=2x": "rat" is no key of chat. Nearest: rate.' in ran.err
    assert 'what if "more": is no term' in ran.err
    assert "Terms look like these" in ran.err
    assert run("plan", "--what-if", "+1 slot", "--out", "x").code == 2
