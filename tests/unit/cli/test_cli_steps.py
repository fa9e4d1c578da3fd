"""Summaries of what up, drain and down did."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
from cli_fleet import small_plan

from llmfleet.cli.render.steps import capacity, curl, down_summary, drain_summary, to_do, up_summary
from llmfleet.launch.results import CapacityLeft, ChangedStep, DownReport, DrainReport, UpReport

PLAN = small_plan()
STEPS = (
    ChangedStep("weights", "slot-0", "copy weights m.gguf"),
    ChangedStep("instances", "slot-0", "start chat-slot-0-0"),
    ChangedStep("router", "head", "start router"),
)


def test_to_do_goes_node_by_node() -> None:
    assert to_do(STEPS).splitlines() == [
        "slot-0",
        "  weights    copy weights m.gguf",
        "  instances  start chat-slot-0-0",
        "head",
        "  router     start router",
        "3 steps on 2 nodes to do. Nothing was changed.",
    ]
    assert to_do(()) == "Nothing to do."


def test_up_says_where_to_ask_and_how() -> None:
    lines = up_summary(UpReport(STEPS, False, 42.4, "http://10.0.0.10:8080"), PLAN).splitlines()
    assert lines[0] == "3 steps done in 42 s. http://10.0.0.10:8080/v1 is ready:"
    assert "curl http://10.0.0.10:8080/v1/chat/completions" in lines[2]


def test_second_up_has_nothing_to_do() -> None:
    assert up_summary(UpReport((), False, 3, "http://h:1"), PLAN) == (
        "Nothing to do: the fleet is as planned. http://h:1/v1"
    )


@pytest.mark.parametrize(
    ("task", "path", "key"),
    [("generate", "chat/completions", "messages"), ("embed", "embeddings", "input"), ("rerank", "rerank", "documents")],
)
def test_curl_can_be_pasted(task: str, path: str, key: str) -> None:
    service = replace(PLAN.services[0], task=task)  # type: ignore[arg-type]
    words = shlex.split(curl("http://h:1/v1", service).replace("\\\n", " "))
    assert words[:2] == ["curl", f"http://h:1/v1/{path}"]
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "chat"
    assert key in body


def test_capacity_tells_only_of_services_that_lose() -> None:
    left = (CapacityLeft("chat", 1, 2, 0.254), CapacityLeft("embed", 3, 3, 1.0))
    assert capacity(left) == "  chat: 1 of 2 instances, 25 % of capacity"
    assert capacity(left[1:]) == "  every service keeps all of its instances"


def test_drain_summary() -> None:
    report = DrainReport("slot-0", ("chat-slot-0-0",), (), 8.3)
    assert drain_summary(report).startswith("slot-0 is drained: 1 instance finished and stopped in 8.3 s.")
    assert drain_summary(replace(report, changed=False)) == "slot-0 was drained already."


def test_a_drain_of_a_dead_node_does_not_say_finished() -> None:
    said = drain_summary(DrainReport("slot-0", ("chat-slot-0-0",), (), 8.3, unreachable=("slot-0",)))
    assert "finished" not in said and "stopped" not in said
    assert "whether chat-slot-0-0 still runs there is not known" in said
    assert "llmfleet down --forget slot-0" in said


def test_down_summary() -> None:
    assert down_summary(DownReport((), (), 1)) == "Nothing to do: nothing of this fleet is running."
    assert (
        down_summary(DownReport(STEPS, (), 1.0)) == "3 steps done in 1.0 s.\nNothing of this fleet is running any more."
    )
    assert "still on record: slot-1." in down_summary(DownReport(STEPS, ("slot-1",), 1.0))
