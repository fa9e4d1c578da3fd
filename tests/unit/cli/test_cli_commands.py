"""Each command with its operation replaced: what it is given, what is printed, when it asks, how it exits."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_fleet import INVENTORY, Run, healthy_status, small_plan

from llmfleet.cli import down as down_module
from llmfleet.cli import drain as drain_module
from llmfleet.cli import status as status_module
from llmfleet.cli.workspace import plan_path, read_inventory
from llmfleet.launch.events import Note
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.looking import Rates
from llmfleet.launch.results import ChangedStep, DownReport, DrainReport, FleetStatus, UpReport
from llmfleet.launch.up import UpOptions
from llmfleet.planner.inventory.digest import inventory_hash
from llmfleet.planner.plan import to_json

STEP = ChangedStep("instances", "slot-0", "start chat-slot-0-0")
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(autouse=True)
def workspace(run: Run, tmp_path: Path) -> Path:
    """An inventory and a plan made from it, in the current folder."""
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    plan_path(path).parent.mkdir()
    plan = small_plan(inventory_hash(read_inventory(path)))
    plan_path(path).write_text(json.dumps(to_json(plan)))
    return path


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], list[dict[str, Any]]]:
    """operation("up.up", answer) replaces launch's up; the list fills with what it was called with."""

    def install(name: str, answer: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def fake(fleet: Fleet, *args: Any, **options: Any) -> Any:
            calls.append({"cluster": fleet.plan.cluster, "args": args, **options})
            fleet.observe(Note("slot-0", "at work"))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(f"llmfleet.launch.{name}", fake)
        return calls

    return install


Operation = Callable[[str, Any], list[dict[str, Any]]]


def test_up(run: Run, operation: Operation) -> None:
    calls = operation("up.up", UpReport((STEP,), False, 42.0, ADDRESS))
    ran = run("up")
    assert ran.code == 0
    assert ran.out.startswith("1 step done in 42 s. http://127.0.0.1:8080/v1 is ready:")
    assert ran.err == "slot-0: at work\n"
    assert calls == [{"cluster": "rag", "args": (UpOptions(),)}]


def test_up_with_json_is_one_document(run: Run, operation: Operation) -> None:
    operation("up.up", UpReport((STEP,), False, 42.0, ADDRESS))
    ran = run("up", "--json")
    assert json.loads(ran.out) == {
        "changed": [{"phase": "instances", "node": "slot-0", "title": "start chat-slot-0-0"}],
        "dry_run": False,
        "seconds": 42.0,
        "address": ADDRESS,
        "skipped_nodes": [],
    }
    assert ran.err == "slot-0: at work\n"


def test_quiet_up_says_nothing(run: Run, operation: Operation) -> None:
    operation("up.up", UpReport((STEP,), False, 42.0, ADDRESS))
    assert run("up", "--quiet") == (0, "", "")


def test_dry_run_lists_steps(run: Run, operation: Operation) -> None:
    calls = operation("up.up", UpReport((STEP,), True, 1.0, ADDRESS))
    assert run("up", "--dry-run").out.splitlines()[:2] == ["slot-0", "  instances  start chat-slot-0-0"]
    assert calls[0]["args"] == (UpOptions(dry_run=True),)


@pytest.mark.parametrize(
    ("name", "args", "next_step"),
    [
        ("up.up", ("up",), "llmfleet down"),
        ("drain.drain", ("drain", "slot-0"), "llmfleet undrain slot-0"),
        ("drain.undrain", ("undrain", "slot-0"), "llmfleet drain slot-0"),
        ("down.down", ("down", "--yes"), "llmfleet down"),
    ],
)
def test_interrupt_says_what_to_do_next(
    name: str, args: tuple[str, ...], next_step: str, run: Run, operation: Operation
) -> None:
    operation(name, KeyboardInterrupt())
    ran = run(*args)
    assert ran.code == 130
    assert "interrupted\n  → " in ran.err
    assert next_step in ran.err


def test_up_wants_a_plan_of_this_inventory(run: Run, operation: Operation, workspace: Path) -> None:
    calls = operation("up.up", UpReport((), False, 1, ADDRESS))
    workspace.write_text(INVENTORY + "policy: {redundancy: 1}\n")
    ran = run("up")
    assert ran.code == 1
    assert "has changed since plan" in ran.err
    assert calls == []


def test_down_works_with_an_older_plan(run: Run, operation: Operation, workspace: Path) -> None:
    operation("down.down", DownReport((STEP,), (), 1))
    workspace.write_text(INVENTORY + "policy: {redundancy: 1}\n")
    assert run("down").code == 0


def test_status(run: Run, operation: Operation) -> None:
    operation("status.status", healthy_status(small_plan()))
    ran = run("status")
    assert ran.code == 0
    assert "all as planned" in ran.out
    body = json.loads(run("status", "--json").out)
    assert {"nodes", "instances", "router", "plan_hash"} <= body.keys()


def test_status_exits_1_when_not_as_planned(run: Run, operation: Operation) -> None:
    operation("status.status", replace(healthy_status(small_plan()), ok=False, problems=("slot-0 is unreachable",)))
    assert run("status").code == 1
    assert run("status", "--json").code == 1
    assert run("status", "--quiet") == (1, "", "")


class Looks:
    """In place of a Looker: two looks, and then Ctrl-C."""

    left = 2

    def __init__(self, fleet: Fleet) -> None:
        assert fleet.inventory.cluster == "rag"

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: object) -> None: ...

    def look(self) -> tuple[FleetStatus, Rates]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return healthy_status(small_plan()), Rates({"chat-slot-0-0": 120.4}, {"chat-slot-0-0": 2.5})


def test_watch_repeats_until_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "Looker", Looks)
    monkeypatch.setattr(status_module.time, "sleep", lambda _: None)
    ran = run("status", "--watch")
    assert ran.code == 0
    assert ran.out.count("all as planned") == 2
    assert ran.out.count("120 tokens/s") == 2, "plain text where there is no terminal"


@pytest.mark.parametrize("also", ["--json", "--quiet"])
def test_watch_has_no_end_and_so_no_document(also: str, run: Run) -> None:
    assert run("status", "--watch", also).code == 2


def test_drain_says_first_what_is_left(run: Run, operation: Operation) -> None:
    calls = operation("drain.drain", DrainReport("slot-0", ("chat-slot-0-0",), (), 8))
    ran = run("drain", "slot-0", "--timeout", "60", "--force")
    assert ran.code == 0
    assert ran.err.startswith("Without slot-0:\n  chat: 1 of 2 instances, 50 % of capacity\n")
    assert "slot-0 is drained" in ran.out
    assert calls == [{"cluster": "rag", "args": ("slot-0",), "timeout_s": 60.0, "force": True}]


def test_script_must_say_yes_to_leave_a_service_bare(run: Run, operation: Operation) -> None:
    calls = operation("drain.drain", DrainReport("slot-1", (), (), 8))
    ran = run("drain", "slot-1")
    assert ran.code == 1
    assert "without slot-1 no instance of embed is left\n  → Say --yes" in ran.err
    assert calls == []
    assert run("drain", "slot-1", "--yes").code == 0
    assert len(calls) == 1


@pytest.mark.parametrize(("answer", "code", "drained"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_person_is_asked(
    answer: str, code: int, drained: int, run: Run, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = operation("drain.drain", DrainReport("slot-1", (), (), 8))
    monkeypatch.setattr(drain_module, "may_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", _typed(answer))
    ran = run("drain", "slot-1")
    assert (ran.code, len(calls)) == (code, drained)
    assert "Drain it? [y/N]" in ran.err


def _typed(text: str) -> Any:
    return io.StringIO(text)


def test_unknown_node_names_the_nearest(run: Run, operation: Operation) -> None:
    calls = operation("drain.drain", None)
    ran = run("drain", "slto-1")
    assert ran.code == 2
    assert "slot-1" in ran.err
    assert calls == []
    assert run("undrain", "slto-1").code == 2


def test_down_asks_a_person_and_not_a_script(run: Run, operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = operation("down.down", DownReport((STEP,), (), 1.0))
    assert run("down").out == "1 step done in 1.0 s.\nNothing of this fleet is running any more.\n"
    monkeypatch.setattr(down_module, "may_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", _typed("n\n"))
    assert run("down").code == 1
    assert len(calls) == 1
    assert run("down", "--yes", "--keep-weights").code == 0
    assert calls[-1] == {"cluster": "rag", "args": (), "dry_run": False, "keep_weights": True}


def test_down_that_could_not_reach_a_node_exits_3(run: Run, operation: Operation) -> None:
    operation("down.down", DownReport((STEP,), ("slot-1",), 1.0))
    ran = run("down")
    assert ran.code == 3
    assert "slot-1" in ran.out


def test_logs(run: Run, operation: Operation) -> None:
    def lines() -> Iterator[str]:
        yield from ("loading", "[bold]ready[/]")

    calls = operation("logs.logs", lines())
    assert run("logs", "chat-slot-0-0", "-n", "5").out == "loading\n[bold]ready[/]\n"
    assert calls == [{"cluster": "rag", "args": ("chat-slot-0-0",), "lines": 5, "follow": False}]
    operation("logs.logs", lines())
    assert json.loads(run("logs", "chat-slot-0-0", "--json").out)["lines"] == ["loading", "[bold]ready[/]"]


def test_following_ends_with_ctrl_c(run: Run, operation: Operation) -> None:
    def lines() -> Iterator[str]:
        yield "loading"
        raise KeyboardInterrupt

    operation("logs.logs", lines())
    ran = run("logs", "chat-slot-0-0", "-f")
    assert (ran.code, ran.out) == (0, "loading\n")
    assert run("logs", "chat-slot-0-0", "-f", "--json").code == 2


def test_logs_of_an_unknown_instance_name_the_nearest(run: Run) -> None:
    ran = run("logs", "chat-slot-0")
    assert ran.code == 2
    assert "chat-slot-0-0" in ran.err


def test_router_show(run: Run, operation: Operation) -> None:
    operation("router_view.router_show", {"bootstrap.yaml": "a: 1", "xds/cds.yaml": "b: 2"})
    assert run("router", "show").out == "# bootstrap.yaml\na: 1\n# xds/cds.yaml\nb: 2\n"
    assert run("router", "show", "xds/cds.yaml").out == "b: 2\n"
    assert json.loads(run("router", "show", "--json").out) == {"bootstrap.yaml": "a: 1", "xds/cds.yaml": "b: 2"}
    ran = run("router", "show", "xds/cdx.yaml")
    assert ran.code == 2
    assert "Nearest: xds/cds.yaml" in ran.err


def test_router_reload(run: Run, operation: Operation) -> None:
    operation("router_view.router_reload", UpReport((), False, 1.0, ADDRESS))
    assert run("router", "reload").out == "Nothing to do.\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("logs chat", {"chat-slot-0-0", "chat-slot-1-0"}),
        ("drain ", {"slot-0", "slot-1"}),
        ("undrain slot-1", {"slot-1"}),
        ("dr", {"drain"}),
    ],
)
def test_completion(words: str, expected: set[str], run: Run, workspace: Path) -> None:
    line = f"llmfleet {words}"
    environment = {**os.environ, "_LLMFLEET_COMPLETE": "complete_bash", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(line.split()) - (not line.endswith(" ")))
    program = [sys.executable, "-m", "llmfleet.cli.app"]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=False, cwd=workspace.parent)
    assert set(done.stdout.split()) == expected


def test_router_diff(run: Run, operation: Operation) -> None:
    operation("router_view.router_diff", {"xds/cds.yaml": "--- a\n+++ b\n-1\n+2"})
    assert run("router", "diff").out == "--- a\n+++ b\n-1\n+2\n"
    assert json.loads(run("router", "diff", "--json").out) == {"xds/cds.yaml": "--- a\n+++ b\n-1\n+2"}
    operation("router_view.router_diff", {})
    assert run("router", "diff").out == "Nothing would change.\n"


def test_router_metrics(run: Run, operation: Operation) -> None:
    operation("router_view.router_metrics", "global: {}\n")
    assert run("router", "metrics").out == "global: {}\n"
    assert json.loads(run("router", "metrics", "--format", "grafana", "--json").out) == {
        "format": "grafana",
        "text": "global: {}\n",
    }
    assert run("router", "metrics", "--format", "nagios").code == 2
