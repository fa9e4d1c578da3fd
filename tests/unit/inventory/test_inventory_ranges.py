"""Ranges of nodes and hosts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.ranges import MOST_NODES, expand, parse_range


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("head", "head"),
        ("a800-[0-1]", "a800-0 a800-1"),
        ("n[01-12]", "n01 n02 n03 n04 n05 n06 n07 n08 n09 n10 n11 n12"),
        ("n[08-101]", " ".join(f"n{i:02}" for i in range(8, 102))),
        ("n[0-1,4]", "n0 n1 n4"),
        ("n[ 0 - 1 ]".replace(" ", ""), "n0 n1"),
        ("n[0, 2]", "n0 n2"),
        ("n[7]", "n7"),
        ("n[0-0]", "n0"),
        ("r[1-2]-n[0-1]", "r1-n0 r1-n1 r2-n0 r2-n1"),
        ("[1-2].example", "1.example 2.example"),
        ("10.0.1.[10-11]", "10.0.1.10 10.0.1.11"),
    ],
)
def test_expands(text: str, members: str) -> None:
    assert expand(text) == tuple(members.split())
    assert parse_range(text).count == len(members.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n[3-1]", '"3-1" in "n[3-1]" ends before it starts.'),
        ("n[]", '"" in "n[]" is no range'),
        ("n[a-b]", '"a-b" in "n[a-b]" is no range'),
        ("n[0-1-2]", '"0-1-2" in "n[0-1-2]" is no range'),
        ("n[0-1", 'the brackets of "n[0-1" do not pair'),
        ("n]0[", "do not pair"),
        ("n[[0-1]]", "do not pair"),
        ("n[010-12]", '"010-12" in "n[010-12]" is padded on one side only'),
        ("n[٣-٤]", "is no range"),
        ("n[0-999999999]", '"n[0-999999999]" stands for 1,000,000,000 nodes; at most 20,000 are allowed.'),
        ("n[0-20000]", "stands for 20,001 nodes"),
        ("[0-999]" * 8, "stands for far too many nodes"),
        ("n[0-9999999999]", "is no range"),
        ("n" * 5000, "is longer than 4,096 characters."),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        expand(text)


def test_the_longest_range_is_allowed() -> None:
    assert len(set(expand("n[00001-20000]"))) == MOST_NODES


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=2),
    st.sampled_from(["n", "10.0.", "a-b"]),
)
def test_counts_what_it_expands(groups: list[tuple[int, int, int]], text: str) -> None:
    pattern = "-".join(f"{text}[{str(a).zfill(w)}-{str(a + more).zfill(w)}]" for a, more, w in groups)
    parsed = parse_range(pattern)
    members = tuple(parsed)
    assert len(members) == parsed.count == len(set(members))
    assert all(member.count(text) == len(groups) for member in members)


@given(st.text(alphabet="n0123456789-,[] x", max_size=60))
def test_only_input_errors(text: str) -> None:
    try:
        members = expand(text)
    except InputError:
        return
    assert 1 <= len(members) <= MOST_NODES
