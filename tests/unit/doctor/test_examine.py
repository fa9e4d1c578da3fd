"""doctor on a whole fleet of doubles, and the same checks as `up` runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.doctor.examine import examine, without_plan
from llmfleet.launch.doctor.result import DoctorReport
from llmfleet.launch.events import Event, Note
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.facts import facts_command, facts_script
from llmfleet.launch.phases import checks, connect
from llmfleet.launch.phases import facts as facts_phase
from llmfleet.launch.session import open_session
from llmfleet.launch.transport.fake import FakeTransport
from llmfleet.planner.errors import AuthError, DeadlineError, FleetError, HostKeyError, NodesError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.inventory.parse import parse

INVENTORY = """
cluster: rag
access: {transport: fake}
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "a800-[0-1]", host: "10.0.1.[10-11]", gpus: 2 x A800-80G}
services: [{name: chat, model: m}]
"""


@cache
def said() -> dict[str, Any]:
    """What the script says of this machine: the shape that the doubles keep."""
    done = subprocess.run(facts_command(sys.executable, "{}"), input=facts_script(), capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answer(**changes: Any) -> str:
    smi = "\n".join(f"{i}, NVIDIA A800-SXM4-80GB, 81920, 4, 580.95.05, GPU-{i}" for i in range(2))
    found = said() | {"gpus": smi, "gpu_error": None, "gpu_users": [], "other_gpus": {}, "proxies": [], "binds": True}
    found |= {"nofile": [1024, 65536], "envoy": "1.40.0", "runtimes": {}, "images": {}}
    found["engine_python"] = {"executable": "p", "version": "3.11.0", "packages": {"vllm": "0.33.0"}}
    return json.dumps(found | changes)


Fleets = Callable[..., Fleet]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleets:
    """fleet(**{"a800-1": error or changes of its facts}) → a fleet whose nodes are doubles."""

    def make(observe: Callable[[Event], None] = lambda _: None, **nodes: FleetError | dict[str, Any]) -> Fleet:
        def transport(node: Node) -> FakeTransport:
            how = nodes.get(node.name.replace("-", "_"), {})
            if isinstance(how, FleetError):
                return FakeTransport(node.name, error=how)
            return FakeTransport(node.name).reply(("python3", "-"), answer(**how))

        monkeypatch.setattr("llmfleet.launch.session.open_transport", transport)
        inventory = parse(INVENTORY)
        return Fleet(inventory, without_plan(inventory), tmp_path / ".llmfleet", observe)

    return make


def found(report: DoctorReport, node: str) -> dict[str, str]:
    return {r.name: r.status for n in report.nodes if n.name == node for r in n.results}


def test_a_healthy_fleet(fleet: Fleets) -> None:
    made = fleet()
    report = examine(made, made.inventory.nodes)
    assert report.ok, report
    assert [n.name for n in report.nodes] == ["head", "a800-0", "a800-1"]
    assert found(report, "a800-0")["gpus"] == "ok"
    assert not (made.folder / "state.json").exists(), "it only looks"


def test_only_the_asked_nodes_are_shown(fleet: Fleets) -> None:
    made = fleet(a800_0={"gpus": ""})
    report = examine(made, [made.inventory.node("a800-1")])
    assert report.ok
    assert [n.name for n in report.nodes] == ["a800-1"]


@pytest.mark.parametrize(
    ("error", "check"),
    [(HostKeyError("its key changed"), "host key"), (AuthError("it refused"), "login"), (DeadlineError("no"), "reach")],
)
def test_a_node_that_is_away_stops_no_other(fleet: Fleets, error: FleetError, check: str) -> None:
    made = fleet(a800_0=error)
    report = examine(made, made.inventory.nodes)
    assert report.unreachable == ("a800-0",)
    assert found(report, "a800-0") == {check: "fail"}
    assert found(report, "a800-1")["gpus"] == "ok"


def test_without_the_head_the_others_are_checked_all_the_same(fleet: Fleets) -> None:
    made = fleet(head=DeadlineError("no"))
    report = examine(made, made.inventory.nodes)
    assert report.unreachable == ("head",)
    assert found(report, "a800-0")["gpus"] == "ok"


def test_a_node_whose_answer_is_none_is_told(fleet: Fleets) -> None:
    made = fleet(a800_1={"memory": None})
    report = examine(made, made.inventory.nodes)
    assert found(report, "a800-1") == {"reach": "ok", "facts": "fail"}
    assert not report.ok
    assert report.unreachable == ()


def test_up_runs_the_same_checks_and_tells_all_at_once(fleet: Fleets) -> None:
    notes: list[Event] = []
    made = fleet(notes.append, a800_0={"gpus": ""}, a800_1={"nofile": [1, 2], "proxies": ["HTTP_PROXY"]})
    with open_session(made) as session:
        session.connect(made.inventory.nodes)
        connect.resolve_addresses(session, list(made.inventory.nodes))
        names = [n.name for n in made.inventory.nodes]
        facts_phase.gather(session, names, ())
        with pytest.raises(NodesError) as raised:
            checks.check(session, names, ())
    assert [e.node for e in raised.value.errors] == ["a800-0", "a800-1"]
    assert "the node has 0" in raised.value.errors[0].message
    assert raised.value.exit_code == 1
    assert [n.node for n in notes if isinstance(n, Note) and n.level == "warning"] == ["a800-1"]
