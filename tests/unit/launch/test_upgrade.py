"""An engine version set in an inventory's text: the nodes that are meant change, and nothing else of the file."""

from __future__ import annotations

import pytest

from llmfleet.launch.inventory_text import with_value
from llmfleet.launch.upgrade import Wish, upgraded
from llmfleet.planner.errors import InputError, UnknownNameError

FLOW = """\
cluster: rag
runtime: {python: /opt/a/bin/python, versions: {vllm: 0.32.0}} # ours
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "a[0-1]", host: "10.0.1.[10-11]", gpus: 8 x A800-80G}
  - {name: "v[0-1]", host: "10.0.2.[10-11]", gpus: 4 x V100-32G,
     runtime: {python: /o/python, image: o, versions: {vllm: 0.19.1}}} # V100
services:
  - {name: chat, model: Qwen/Qwen3-8B}
"""
BLOCK = """\
cluster: rag
# how engines start
runtime:
  python: /opt/a/bin/python
  versions:
    vllm: 0.32.0 # since May
    llama.cpp: 1.0

nodes:
  - name: a0
    host: 10.0.1.10 # rack 3
    gpus: 8 x A800-80G

    # the other one
  - name: a1
    host: 10.0.1.11
    gpus: 8 x A800-80G
services:
  - {name: chat, model: Qwen/Qwen3-8B}
"""


def changed(text: str, wish: Wish) -> list[str]:
    """Lines that the edit took away and put in."""
    lines = upgraded(text, wish, "inventory.yaml").diff("inventory.yaml").splitlines()[2:]
    return [line for line in lines if line[0] in "+-"]


def test_everywhere_but_where_a_version_of_its_own_is_named() -> None:
    wish = Wish("vllm", "0.33.0", python="/opt/b/bin/python")
    assert changed(FLOW, wish) == [
        "-runtime: {python: /opt/a/bin/python, versions: {vllm: 0.32.0}} # ours",
        "+runtime: {python: /opt/b/bin/python, versions: {vllm: 0.33.0}} # ours",
    ]
    assert upgraded(FLOW, wish, "x").kept == {"v0": "0.19.1", "v1": "0.19.1"}


def test_in_a_block_with_comments() -> None:
    assert changed(BLOCK, Wish("vllm", "0.33.0")) == ["-    vllm: 0.32.0 # since May", "+    vllm: 0.33.0 # since May"]


def test_keys_that_are_not_there_yet() -> None:
    bare = FLOW.replace("runtime: {python: /opt/a/bin/python, versions: {vllm: 0.32.0}} # ours\n", "")
    after = upgraded(bare, Wish("vllm", "0.33.0", image="m/vllm:1"), "x").text
    assert after.startswith(bare.rstrip("\n"))
    assert "runtime: {versions: {vllm: 0.33.0}" in after
    assert 'image: "m/vllm:1"' in after or "image: m/vllm:1" in after


def test_on_some_nodes_alone() -> None:
    assert changed(BLOCK, Wish("vllm", "0.33.0", nodes=("a1",))) == ["+    runtime: {versions: {vllm: 0.33.0}}"]
    volta = next(line for line in FLOW.splitlines() if "# V100" in line)
    found = changed(FLOW, Wish("vllm", "0.20.0", nodes=("v0", "v1")))
    assert found == [f"-{volta}", f"+{volta.replace('0.19.1', '0.20.0')}"]


def test_nodes_that_would_change_along_are_named() -> None:
    """They have a version of their own, and take their Python from the file."""
    text = FLOW.replace("python: /o/python, ", "")
    with pytest.raises(InputError, match="v0 would change too") as caught:
        upgraded(text, Wish("vllm", "0.33.0", python="/opt/b/bin/python"), "x")
    assert "--node" in caught.value.hint


def test_half_a_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"a0 share an entry of the inventory with a\[0-1\]"):
        upgraded(FLOW, Wish("vllm", "0.33.0", nodes=("a0",)), "x")


def test_nobodys_node() -> None:
    with pytest.raises(UnknownNameError):
        upgraded(FLOW, Wish("vllm", "0.33.0", nodes=("b0",)), "x")


@pytest.mark.parametrize(
    ("text", "path", "after"),
    [
        ("a: 1\n", ("a",), "a: 9\n"),
        ("a: 1\n", ("b",), "a: 1\nb: 9\n"),
        ("a: 1", ("b", "c"), "a: 1\nb: {c: 9}"),
        ("a:\nb: 1\n", ("a", "c"), "a: {c: 9}\nb: 1\n"),
        ("a: {}\n", ("a", "c"), "a: {c: 9}\n"),
        ("a: {b: [1, 2]} # x\n", ("a", "c"), "a: {b: [1, 2], c: 9} # x\n"),
        ("l:\n  - a: 1\n  - a: 2 # two\n", ("l", 1, "b"), "l:\n  - a: 1\n  - a: 2 # two\n    b: 9\n"),
    ],
)
def test_in_place(text: str, path: tuple[str | int, ...], after: str) -> None:
    assert with_value(text, path, "9").replace("'9'", "9") == after


@pytest.mark.parametrize(
    ("text", "path"), [("- 1\n", ("a",)), ("a: [1]\n", ("a", "b")), ("a: {b: 1}\n", ("a",)), ("{", ("a",))]
)
def test_what_cannot_be_set_is_said(text: str, path: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        with_value(text, path, "9")
