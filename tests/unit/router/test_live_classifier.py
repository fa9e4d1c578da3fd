"""The Lua classifier inside Envoy against Python's JSON parser."""

from __future__ import annotations

from collections import Counter

import pytest
import reference
from running import RunningRouter

pytestmark = pytest.mark.live

MODELS = ("chat", "chat-lite", "Qwen/Qwen1.5-72B-Chat", "nobody", "é", "x" * 300)
KNOWN = MODELS[:3]


def expected_status(found: reference.Found | None) -> int:
    return 400 if found is None else 200 if found.model in KNOWN else 404


def test_valid_bodies(router: RunningRouter) -> None:
    """The same model, key and length as a JSON parser finds, whatever the order, white space, escapes and doubles."""
    bodies = reference.Bodies(1, MODELS)
    cases = [bodies.valid() for _ in range(500)]
    seen: Counter[int] = Counter()
    for case, answer in zip(cases, router.many(cases, "/v1/completions"), strict=True):
        found = reference.classify(case)
        seen[answer.status] += 1
        assert answer.status == expected_status(found), case
        if found is not None and answer.status == 200:
            headers = answer.json["headers"]
            told = (answer.json["model"], headers.get("x-llmfleet-prefix"), headers["x-llmfleet-tokens"])
            assert told == (found.model, found.prefix, str(found.tokens)), case
    assert min(seen[status] for status in (200, 400, 404)) > 20, seen


def test_broken_bodies(router: RunningRouter) -> None:
    """What a JSON parser takes is routed as it says; what it refuses is refused here, or left to the engine."""
    bodies = reference.Bodies(2, MODELS)
    cases = [bodies.broken() for _ in range(300)]
    refused = 0
    for case, answer in zip(cases, router.many(cases, "/v1/completions"), strict=True):
        found = reference.classify(case)
        if found is not None:
            assert answer.status == expected_status(found), case
        else:
            assert answer.status in (200, 400, 404), case
            refused += answer.status == 400
    assert refused > 100
