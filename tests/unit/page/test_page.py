"""The plan's page as text: what is on it, and that nothing leaves it."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from tests.unit.page.pages import example_page, hostile_page, page_of
from tests.unit.planning.fleets import EXAMPLE, LAB, LAPTOP, planned
from tests.unit.planning.test_short import small

FLEET = """
cluster: wide
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "n[0-NODES]", host: "n[0-NODES].example", gpus: 8 x A800-80G}
services:
  - {name: chat, model: Qwen/Qwen2.5-7B-Instruct, traffic: {rate: 5, input: {mean: 500}, output: {mean: 100}}}
"""


class Page(HTMLParser):
    """Elements by tag and by class, and where anything is loaded from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "class":
                self.classes.update((value or "").split())
            if name in ("src", "href", "action", "data"):
                self.loaded.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def test_everything_of_the_plan_is_on_it() -> None:
    page, plan = Page(example_page()), planned(EXAMPLE)
    assert page.classes["service"] == len(plan.services) == 4
    assert page.classes["flow"] == 2
    assert page.classes["chart"] == 3 + 2 + 2 + 3  # chat, embed, rerank, chat-lite
    assert page.classes["limit"] >= 2
    assert page.tags["details"] > len({i.reason for i in plan.instances})
    for instance in plan.instances:
        assert instance.id in example_page()
        assert instance.reason.split(". ")[0].replace(">", "&gt;").replace("<", "&lt;") in example_page()
    for rejected in plan.rejected:
        assert rejected.shape in example_page()


def test_every_gpu_of_a_kind_of_node_has_a_bar() -> None:
    cards = re.findall(r'<article class="node.*?</article>', example_page(), re.DOTALL)
    bars = {re.sub("<[^>]*>", "", card.split("</h3>")[0]).split()[0]: card.count('class="bar"') for card in cards}
    assert sum(bars.values()) >= 8 + 8 + 4 + 2
    assert {bars[name] for name in bars if name.startswith(("a800", "h20"))} == {8}
    assert bars["head"] == 0


def test_nothing_is_loaded_from_anywhere() -> None:
    page = Page(example_page())
    assert page.loaded == ["data:,"]
    assert "@import" not in example_page()
    assert not re.search(r"url\((?!data:)", example_page())
    assert not re.search(r"https?://", example_page())
    assert "default-src 'none'" in example_page()


def test_hostile_names_stay_text() -> None:
    fine, hostile = Page(example_page()), Page(hostile_page())
    assert hostile.tags["script"] == fine.tags["script"] == 1
    assert hostile.tags["img"] == 0
    assert hostile.handlers == []
    assert hostile.loaded == ["data:,"]
    assert "{{7*7}}" in hostile_page()
    assert "</script><script>" not in hostile_page()


@pytest.mark.parametrize(
    "text",
    [LAB, LAPTOP, small(rate=500), small("Qwen/Qwen1.5-72B-Chat"), small().replace(", gpus: 2 x RTX-4090", "")],
    ids=["lab", "laptop", "short", "nowhere", "no-gpus"],
)
def test_any_plan_has_a_page(text: str) -> None:
    page = Page(page_of(text))
    assert page.classes["service"] == 1
    assert page.tags["html"] == 1
    assert "nan" not in page_of(text).lower()


def test_many_nodes_alike_are_one_card() -> None:
    few, many = (page_of(FLEET.replace("NODES", last)) for last in ("9", "1999"))
    assert Page(few).classes["node"] == Page(many).classes["node"]
    assert len(many) < 2 * len(few)
    assert "n[0-1999]" in many
    assert "2 000 alike" in many
