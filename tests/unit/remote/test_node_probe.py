"""The probe script against engine doubles that serve real metrics pages, and its answers as values."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from supervised_node import Node, probe

from llmfleet.launch.nodes.probe import EngineMetrics, NodeProbe, ProcessStatus, parse_probe, parse_statuses

pytestmark = pytest.mark.live

METRICS = Path(__file__).parents[2] / "data" / "metrics"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("vllm-0.32.0.txt", EngineMetrics(True, 3, 2, 0.25, 0.75, 512, 128, 65536, 7, 20)),
        ("llama.cpp-b11549.txt", EngineMetrics(True, 1, 4, None, 0.75, prompt_tokens=104, generated_tokens=16)),
    ],
)
def test_an_engine_is_asked_for_its_metrics(node: Node, page: str, expected: EngineMetrics) -> None:
    process = node.spec("--metrics", str(METRICS / page))
    node.start()
    status = node.comes("healthy")
    found = probe(node)
    assert found.engines == {"chat": expected}
    assert found.processes["chat"].digest == process.digest
    assert found.processes["chat"].pid == status["pid"]
    assert found.processes["chat"].kind == "engine"


def test_an_engine_that_does_not_answer_is_said_so(node: Node) -> None:
    node.spec(hang_after_s=600.0)
    node.start()
    os.kill(node.comes("healthy")["pid"], signal.SIGSTOP)
    found = probe(node)
    assert found.engines == {"chat": EngineMetrics(healthy=False)}
    assert found.processes["chat"].alive


def test_only_engines_that_live_are_asked(node: Node) -> None:
    node.spec(argv=("/nowhere/vllm",))
    node.start()
    found = probe(node)
    assert found.engines == {}
    assert found.processes["chat"].state == "failed"
    assert "cannot start /nowhere/vllm" in found.processes["chat"].reason
    assert not found.processes["chat"].alive


def test_a_node_without_processes(node: Node) -> None:
    assert probe(node) == NodeProbe()


def status(**more: Any) -> str:
    return json.dumps([{"name": "chat", "state": "healthy", **more}])


def test_states_of_later_versions_may_say_more() -> None:
    assert parse_statuses(status(mood="good")) == (ProcessStatus("chat", "healthy"),)


def test_reasons_are_words() -> None:
    (healthy,) = parse_statuses(status(last_error="it was worse once"))
    (ended,) = parse_statuses(status(state="exited", last_exit=3))
    (hung,) = parse_statuses(status(state="starting", last_error="hung: no good answer"))
    assert [s.reason for s in (healthy, ended, hung)] == ["", "it ended with exit code 3", "hung: no good answer"]
    assert [s.alive for s in (healthy, ended, hung)] == [True, False, True]


@pytest.mark.parametrize("text", ["", "oops", "{}", "[1]", '[{"name": "a"}]', '[{"name": "a", "state": "sleepy"}]'])
def test_states_that_are_none_are_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_statuses(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"processes": 1, "engines": {}}'])
def test_a_probe_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_probe(text)
