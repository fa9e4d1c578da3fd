"""llmfleet doctor: what it examines, what it prints, how it exits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_fleet import INVENTORY, Run, small_plan

from llmfleet.cli.options import complete_inventory_nodes
from llmfleet.cli.workspace import plan_path, read_inventory
from llmfleet.launch.doctor.result import CheckResult, DoctorReport, NodeReport
from llmfleet.launch.fleet import Fleet
from llmfleet.planner.inventory.digest import inventory_hash
from llmfleet.planner.plan import to_json

OK = CheckResult("python", "ok", "3.11.7, x86_64", "scripts run with it")
SKEW = CheckResult("clock", "warn", "its clock is 30 s behind this machine's", "logs are ordered by it", "timedatectl")
GPUS = CheckResult(
    "gpus", "fail", "the inventory says 2 x A, the node has 1", "the plan cuts them up", "Mend the card."
)
AWAY = CheckResult(
    "reach", "fail", "10.0.0.9:22 did not answer within 10 s", "everything is done over SSH", "Is it on?"
)
HEAD = NodeReport("head", "10.0.0.1", True, (OK,))
FINE = tuple(NodeReport(f"slot-{i}", f"10.0.0.{i + 2}", True, (OK, OK)) for i in range(2))
ILL = NodeReport("slot-2", "10.0.0.4", True, (OK, SKEW, GPUS))
LOST = NodeReport("slot-3", "10.0.0.9", False, (AWAY,))

GOLDEN = """\
rag: 5 nodes, 1 failed, 1 not reached, 1 with warnings

slot-2  10.0.0.4
  ! clock  its clock is 30 s behind this machine's
           why: logs are ordered by it
           → timedatectl
  ✗ gpus   the inventory says 2 x A, the node has 1
           why: the plan cuts them up
           → Mend the card.
  ✓        1 check passed

slot-3  10.0.0.9
  ✗ reach  10.0.0.9:22 did not answer within 10 s
           why: everything is done over SSH
           → Is it on?

✓ head: 1 check passed
✓ slot-[0-1]: 2 checks passed
next: mend what failed, then llmfleet doctor again
"""


@pytest.fixture
def workspace(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


@pytest.fixture
def planned(workspace: Path) -> Path:
    plan_path(workspace).parent.mkdir()
    plan = small_plan(inventory_hash(read_inventory(workspace)))
    plan_path(workspace).write_text(json.dumps(to_json(plan)))
    return workspace


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the operation was asked: nodes, whether there was a plan, the runtime. Put a DoctorReport in front."""
    calls: list[Any] = []

    def examine(fleet: Fleet, nodes: Any, runtime: str | None) -> DoctorReport:
        report: DoctorReport = calls.pop(0)
        calls.append(([n.name for n in nodes], bool(fleet.plan.instances), runtime))
        return report

    monkeypatch.setattr("llmfleet.launch.doctor.examine.examine", examine)
    return calls


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_what_is_wrong_is_told_with_reason_and_remedy(run: Run, planned: Path, examined: list[Any]) -> None:
    examined.append(DoctorReport(False, (HEAD, *FINE, ILL, LOST)))
    ran = run("doctor")
    assert lines(ran.out) == lines(GOLDEN)
    assert ran.code == 3


def test_nodes_of_which_the_same_is_told_are_told_together(run: Run, planned: Path, examined: list[Any]) -> None:
    away = tuple(replace(LOST, name=f"n{i}", host=f"10.0.9.{i}") for i in range(3))
    examined.append(DoctorReport(False, (*away, ILL)))
    shown = lines(run("doctor").out)
    assert "n[0-2]  3 nodes" in shown
    assert sum("✗ " + LOST.results[0].name in line for line in shown) == 1
    assert f"{ILL.name}  {ILL.host}" in shown


def test_verbose_shows_what_passed(run: Run, planned: Path, examined: list[Any]) -> None:
    examined.append(DoctorReport(True, (HEAD,)))
    ran = run("doctor", "-v")
    assert lines(ran.out) == [
        "rag: 1 node, all fine",
        "",
        "head  10.0.0.1",
        "  ✓ python  3.11.7, x86_64",
        "",
        "next: llmfleet up --dry-run · llmfleet up",
    ]


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (DoctorReport(True, (HEAD, *FINE)), 0),
        (DoctorReport(True, (NodeReport("slot-2", "h", True, (SKEW,)),)), 0),
        (DoctorReport(False, (ILL,)), 1),
        (DoctorReport(False, (LOST, ILL)), 3),
    ],
)
def test_exit_codes(report: DoctorReport, code: int, run: Run, planned: Path, examined: list[Any]) -> None:
    examined.append(report)
    assert run("doctor", "--quiet") == (code, "", "")


def test_json_is_one_document(run: Run, planned: Path, examined: list[Any]) -> None:
    examined.append(DoctorReport(False, (ILL,)))
    ran = run("doctor", "--json")
    body = json.loads(ran.out)
    assert body["ok"] is False
    assert body["nodes"][0] | {"results": []} == {"name": "slot-2", "host": "10.0.0.4", "reached": True, "results": []}
    assert body["nodes"][0]["results"][2] == {
        "name": "gpus",
        "status": "fail",
        "detail": "the inventory says 2 x A, the node has 1",
        "why": "the plan cuts them up",
        "hint": "Mend the card.",
    }


def test_planned_nodes_all_nodes_or_the_named(run: Run, planned: Path, examined: list[Any]) -> None:
    planned.write_text(INVENTORY.replace("services:", "  - {name: spare, host: 10.0.0.9}\nservices:"))
    asked = []
    for args in ((), ("--all",), ("slot-1", "slot-1")):
        examined.append(DoctorReport(True, ()))
        assert "has changed since" in run("doctor", *args).err
        asked.append(examined.pop()[0])
    assert asked == [["head", "slot-0", "slot-1"], ["head", "slot-0", "slot-1", "spare"], ["slot-1"]]
    assert run("doctor", "slot-9").code == 2


def test_without_a_plan_all_nodes_are_examined(run: Run, workspace: Path, examined: list[Any]) -> None:
    examined.append(DoctorReport(True, (HEAD,)))
    ran = run("doctor")
    assert ran.code == 0
    assert "inventory.yaml has no plan yet" in ran.err
    assert "left out are engines, router, weights, ports" in ran.err
    assert lines(ran.out)[-1] == "next: llmfleet plan inventory.yaml"
    assert examined == [(["head", "slot-0", "slot-1"], False, None)]


@pytest.mark.parametrize("services", ["", "services:\n", "services: []\n"])
def test_services_need_not_be_there_yet(services: str, run: Run, workspace: Path, examined: list[Any]) -> None:
    workspace.write_text(INVENTORY[: INVENTORY.index("services:")] + services)
    examined.append(DoctorReport(True, (HEAD,)))
    ran = run("doctor")
    assert ran.code == 0, ran.err
    assert "inventory.yaml names no services, and has no plan yet: left out are engines" in ran.err
    assert lines(ran.out)[-1] == "next: fill in `services`, then llmfleet plan inventory.yaml"
    assert run("plan").code == 2


def test_the_runtime_asked_for_is_the_one_that_comes_next(run: Run, planned: Path, examined: list[Any]) -> None:
    examined.append(DoctorReport(True, (HEAD,)))
    ran = run("doctor", "--runtime", "ray-serve")
    assert examined.pop()[2] == "ray-serve"
    assert "next: llmfleet up --runtime ray-serve --dry-run · llmfleet up --runtime ray-serve" in ran.out
    assert run("doctor", "--runtime", "slurm").code == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [(INVENTORY, ["slot-0", "slot-1"]), ("nodes: [{name: 'slot-[0'}]", []), ("- x", []), ("a: [", [])],
)
def test_nodes_are_completed_from_the_inventory(text: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    context: Any = SimpleNamespace(params={"inventory": path})
    assert complete_inventory_nodes(context, "slot") == found
    context.params["inventory"] = tmp_path / "none.yaml"
    assert complete_inventory_nodes(context, "") == []
