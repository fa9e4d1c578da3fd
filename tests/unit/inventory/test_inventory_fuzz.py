"""Whatever the file holds, parse gives an Inventory or InventoryError, and it does so soon."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inventories import SERVICES, VALID, known_gpu

from llmfleet.planner.errors import InventoryError, Problem
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.parse import parse

EXAMPLE = (Path(__file__).parents[3] / "inventory.example.yaml").read_text()
TREE = yaml.safe_load(EXAMPLE)
LIMITS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def outcome(text: str | bytes) -> Inventory | tuple[Problem, ...]:
    try:
        return parse(text, known_gpu=known_gpu)
    except InventoryError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.message
            assert str(problem).isprintable(), str(problem)
            assert min(problem.line, problem.column) >= 0
        return error.problems


@LIMITS
@given(st.text() | st.binary() | st.text(alphabet=" \n-:[]{}&*!|>'\"#%@`?,ax1~", max_size=200))
def test_arbitrary_input(text: str | bytes) -> None:
    outcome(text)


@LIMITS
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_an_inventory_with_other_characters(rng: random.Random, changes: int) -> None:
    letters = list(EXAMPLE)
    for _ in range(changes):
        at = rng.randrange(len(letters))
        letters[at : at + rng.randrange(3)] = rng.choice(
            ["", "\t", "[", "{", ":", "- ", "\n", "&a ", "*a", "\x00", "ü", "'", "9" * 30]
        )
    outcome("".join(letters))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["8 x A800-80G", "2s", "16k", "25Gb/s", "x-[0-1]", "x-[0-99999]", "10.0.0.[0-300]", "chat", "head", "bf16"]
    )
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def places(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, child in below for place in places(child, (*here, key)))]


def replaced(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    if not place:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(copy[place[0]], place[1:], new)
    return copy


@LIMITS
@given(st.sampled_from(places(TREE)), VALUES)
def test_an_inventory_with_another_value(place: tuple[str | int, ...], value: Any) -> None:
    outcome(yaml.safe_dump(replaced(TREE, place, value), allow_unicode=True))


@LIMITS
@given(st.lists(st.tuples(st.sampled_from(places(TREE)[1:]), st.sampled_from(places(TREE))), min_size=1, max_size=3))
def test_an_inventory_with_its_parts_in_other_places(
    swaps: list[tuple[tuple[str | int, ...], tuple[str | int, ...]]],
) -> None:
    tree = TREE
    for place, other in swaps:
        part: Any = TREE
        for step in other:
            part = part[step]
        try:
            tree = replaced(tree, place, part)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier swap took this place away
    outcome(yaml.safe_dump(tree))


HEAD = f"cluster: a\n{SERVICES}nodes: "
CHAIN = "cluster: a\nnodes: [{name: n, host: h}]\nservices:\n"
HUGE = {
    "a line of text": "a " * 2_400_000,
    "one key": "k" * 4_000_000 + ": 1\n",
    "one number": VALID + "engine_port: " + "9" * 1_000_000,
    "one name": HEAD + "[{name: " + "n" * 4_000_000 + ", host: h}]",
    "one host": HEAD + "[{name: n, host: " + "1." * 1_000_000 + "}]",
    "many ranges": HEAD + "[" + '{name: "n[0-19999]", host: "n[0-19999]"},' * 15_000 + "]",
    "many groups": HEAD + '[{name: "' + "[0-1]" * 800 + '", host: h}]',
    "many mistakes": HEAD + "[" + "{nam: n, hots: h, gpu: 1}," * 15_000 + "]",
    "a long chain": CHAIN + "".join(f"- {{name: s{i}, model: a/b, fallback: s{i + 1}}}\n" for i in range(15_000)),
    "a long circle": CHAIN
    + "".join(f"- {{name: s{i}, model: a/b, fallback: s{(i - 1) % 15_000}}}\n" for i in range(15_000)),
    "a long placement": VALID + "  - {name: s, model: a/b, placement: [{nodes: [" + "a800-0, " * 19_000 + "]}]}",
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_files_end(name: str) -> None:
    """Files made to be slow. A hang here is the failure."""
    found = outcome(HUGE[name])
    assert isinstance(found, tuple)
    assert len(str(found)) < 200_000
