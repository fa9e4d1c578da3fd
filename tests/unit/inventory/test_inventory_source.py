"""YAML as text: what is refused before anything is understood, and where values stand."""

from __future__ import annotations

import pytest
from inventories import VALID, said

from llmfleet.planner.inventory import source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "  is empty. Start from inventory.example.yaml, or run: llmfleet init HOST…"),
        ("# only a comment\n", "  is empty. Start from inventory.example.yaml, or run: llmfleet init HOST…"),
        ("nodes: [1", "2:1  is not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence)."),
        ("a:\n\tb: 1", "2:1  is not valid YAML: found character that cannot start any token"),
        ("nodes:\n  - {name: a800-[0-1]}", 'Inside { } a range needs quotes: "a800-[0-1]".'),
        ("nodes:\n  - {host: 10.0.1.[1-2]}", 'Inside { } a range needs quotes: "a800-[0-1]".'),
        ("a: b: c", '1:5  is not valid YAML: mapping values are not allowed in this context. A value that holds ": "'),
        ("name: [0-1]x", "1:12  is not valid YAML:"),
        ("a: 1\n---\nb: 2", '2:1  a second document starts here ("---"); an inventory is one document.'),
        ("a: 1\nb: 2\na: 3", '3:1  the key "a" stands here a second time; first on line 1.'),
        ("a: !!python/object:os.system x", '1:4  tags such as "tag:yaml.org,2002:python/object:os.system" mean'),
        ("? [a]\n: b", "1:3  keys are words, such as name or gpus."),
        ("~: b", "1:1  keys are words, such as name or gpus."),
        ("a: *b", "1:4  the alias *b has no anchor &b before it."),
        ("a: {<<: 7}", "1:5  << takes over the keys of another mapping, by its alias: <<: *name."),
        ("a: &b [*b]", "1:8  the alias *b has no anchor &b before it."),
        ("a: \x00", "1:4  has the character U+0000, which no text file has."),
        ("a: 1\nb: \x1b[0m", "2:4  has the character U+001B, which no text file has."),
        ("a: \ud800", "1:4  has the character U+D800, which no text file has."),
        (b"a: 1\nb: \xff\xfe", "2:1  is not UTF-8 text here. Save the file as UTF-8."),
        ("a: 1".encode("utf-16"), "1:1  is not UTF-8 text here."),
        ("[" * 100_000, "1:41  nested deeper than 40 levels."),
        ("{a: " * 100_000, "nested deeper than 40 levels."),
        ("- " * 100_000, "nested deeper than 40 levels."),
        ("? " * 100_000, "nested deeper than 40 levels."),
        ("x" * 5_000_001, "is longer than the 5,000,000 bytes that an inventory may have."),
        (b"\x00" * 10_000_000, "is longer than the 5,000,000 bytes that an inventory may have."),
        ("- 1\n" * 30_000, "20001:3  more than 20,000 items in one place."),
        ("".join(f"k{i}: 1\n" for i in range(30_000)), "20002:1  more than 20,000 items in one place."),
        ("[" + "[1,2,3,4,5,6,7,8,9]," * 19_000 + "[" + "[1,2,3,4,5,6,7,8,9]," * 19_000 + "]]", "more than 300,000"),
        ("%YAML 3.0\n---\na: 1", "is not valid YAML: found incompatible YAML document."),
    ],
)
def test_refuses(text: str | bytes, expected: str) -> None:
    (first, *_) = said(text)
    assert expected in first
    assert "\n" not in first


def test_several_problems_of_one_file_come_together() -> None:
    assert [line.split("  ")[0] for line in said("a: 1\na: 2\nb: !x 1\n? [1]\n: 2\n")] == ["2:1", "3:4", "4:3"]


def test_aliases_that_multiply_are_refused_before_they_are_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (problem,) = said("\n".join(lines))
    assert problem.startswith("6:5  more than 300,000 values.")


def test_aliases_of_aliases_are_not_deeper_than_anything_else() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100)]
    (problem,) = said("\n".join(lines))
    assert "nested deeper than 40 levels." in problem


def test_bytes_text_and_a_byte_order_mark_are_the_same() -> None:
    assert said(VALID) == said(VALID.encode()) == said("\ufeff" + VALID) == said(b"\xef\xbb\xbf" + VALID.encode()) == []
    assert said(VALID.replace("\n", "\r\n")) == []


def test_values_stay_as_written_and_know_their_place() -> None:
    root = source.read("a: 0.10\nb: {c: [on, ~, 'null', 0777]}\n", "f.yaml")
    assert root.plain() == {"a": "0.10", "b": {"c": ["on", None, "null", "0777"]}}
    assert root.place(("b", "c", 1)) == (2, 13)
    assert root.place(("b", "c"), of_key=True) == (2, 5)
    assert root.place(("b", "missing")) == (2, 4)
    assert root.place(()) == (1, 1)


def test_reads_without_the_c_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert said(VALID) == []
    assert said("[" * 1000) == ["1:41  nested deeper than 40 levels."]
    assert said("a: ~\nb: 'null'\na: 1") == ['3:1  the key "a" stands here a second time; first on line 1.']
    assert "is not valid YAML" in said("a: [1")[0]
