"""The classifier, outside of Envoy, against Python's JSON parser. `make fuzz-router` does the same for longer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import reference
from lua_classifier import Classifier

MODELS = ("chat", "Qwen/Qwen1.5-72B-Chat", "é", "x" * 300, "")


@pytest.fixture(scope="module")
def lua() -> Classifier:
    return Classifier()


def as_header(found: reference.Found | None) -> reference.Found | None:
    """Names that no header carries become "?": nobody has such a model."""
    if found is None or (len(found.model) <= 256 and all(" " <= c <= "~" for c in found.model)):
        return found
    return replace(found, model="?")


def test_valid_bodies(lua: Classifier) -> None:
    bodies = reference.Bodies(3, MODELS)
    for _ in range(1500):
        body = bodies.valid()
        assert lua.classify(body) == as_header(reference.classify(body)), body


def test_broken_bodies(lua: Classifier) -> None:
    """What a parser takes is read the same; what it refuses is refused, or left to the engine."""
    bodies, refused = reference.Bodies(4, MODELS), 0
    for _ in range(1500):
        body = bodies.broken()
        found, expected = lua.classify(body), as_header(reference.classify(body))
        refused += found is None
        assert expected is None or found == expected, body
    assert refused > 300


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 1025, 4095, 4096, 4097, 20_000])
@pytest.mark.parametrize("letter", ["a", "é", "統", "🚀", "\n", '"', "\ud83d"])
def test_prompts_around_the_window(lua: Classifier, letter: str, size: int) -> None:
    body = json.dumps({"model": "chat", "prompt": letter * size}).encode()
    assert lua.classify(body) == reference.classify(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"chat"',
        b"{",
        b"{}",
        b'{"model"}',
        b'{"model":}',
        b'{"model":7}',
        b'{"model":null}',
        b'{"model":["chat"]}',
        b'{"model":"chat"',
        b'{"model":"chat"}}',
        b'{"model":"chat\\"}',
        b'{"model":"chat",}',
        b'{"model":"chat" "x":1}',
        b'{"model":"chat","x":' + b"[" * 100_000,
        b'{"model":"chat","x":' + b"[" * 600 + b"]" * 600 + b"}",
    ],
)
def test_refused(lua: Classifier, body: bytes) -> None:
    assert lua.classify(body) is None


def test_nesting_that_parsers_take(lua: Classifier) -> None:
    body = b'{"model":"chat","x":' + b"[" * 500 + b"]" * 500 + b"}"
    assert lua.classify(body) == reference.classify(body)
