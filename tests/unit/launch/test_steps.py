"""Steps: done where needed, nodes side by side, all failures told, nothing touched in a dry run."""

from __future__ import annotations

import pytest

from llmfleet.launch.change.steps import Runner, Step
from llmfleet.launch.events import Event, StepDone, StepFailed
from llmfleet.launch.results import ChangedStep
from llmfleet.planner.errors import CommandError, NodesError, TransportError


class Node:
    """A node with one file on it."""

    def __init__(self, content: str = "") -> None:
        self.content = content

    def step(self, name: str, content: str) -> Step:
        def apply() -> None:
            self.content = content

        return Step(name, f"write {content}", needed=lambda: self.content != content, apply=apply)


def test_a_second_run_changes_nothing() -> None:
    node = Node()
    run = Runner(lambda _: None)
    assert run.phase(1, "files", lambda: [node.step("h1", "x")]) == [ChangedStep("files", "h1", "write x")]
    assert run.phase(1, "files", lambda: [node.step("h1", "x")]) == []
    assert node.content == "x"


def test_a_dry_run_says_the_same_and_touches_nothing() -> None:
    node = Node()
    planned = Runner(lambda _: None, dry_run=True).phase(1, "files", lambda: [node.step("h1", "x")])
    assert node.content == ""
    assert planned == Runner(lambda _: None).phase(1, "files", lambda: [node.step("h1", "x")])


def test_every_node_gets_its_chance_and_every_failure_is_told() -> None:
    good, events = Node(), list[Event]()

    def broken(error: Exception) -> Step:
        def apply() -> None:
            raise error

        return Step("", "break", needed=lambda: True, apply=apply)

    bad = [
        Step("h1", "break", lambda: True, broken(CommandError("disk full")).apply),
        Step("h3", "break", lambda: True, broken(TransportError("no answer")).apply),
    ]
    with pytest.raises(NodesError) as caught:
        Runner(events.append).phase(1, "files", lambda: [*bad, good.step("h2", "x")])
    assert good.content == "x"
    assert "h1: disk full" in str(caught.value)
    assert "h3: no answer" in str(caught.value)
    assert caught.value.exit_code == 3
    assert {e.node for e in events if isinstance(e, StepFailed)} == {"h1", "h3"}
    assert StepDone("h2", "write x", changed=True) in events


def test_a_node_stops_at_its_first_failure() -> None:
    node = Node()

    def fail() -> None:
        raise CommandError("disk full")

    with pytest.raises(NodesError):
        Runner(lambda _: None).phase(1, "files", lambda: [Step("h1", "a", lambda: True, fail), node.step("h1", "x")])
    assert node.content == ""
