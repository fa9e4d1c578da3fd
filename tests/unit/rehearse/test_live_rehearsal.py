"""A whole rehearsal on the loopback network: processes, the real Envoy, a machine that dies; and bench against it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.unit.simulate.engines import FLEET, planned

from llmfleet.cli.app import main
from llmfleet.launch.rehearse.faults import Fault
from llmfleet.launch.rehearse.rehearse import Rehearsed, rehearse
from llmfleet.launch.rehearse.stage import Stage, staged
from llmfleet.planner.simulate.fleet import fleet_of
from llmfleet.planner.simulate.simulate import Scenario

pytestmark = pytest.mark.live


def rehearsed(faults: tuple[Fault, ...] = ()) -> Rehearsed:
    decision, plan = planned()
    scenario = Scenario(requests=80, load=0.5, warm=0.0, documents=4)
    return rehearse(
        plan, fleet_of(decision, plan), decision.demands, scenario, faults, speed=1.0,
        say=lambda _: None, progress=lambda _done, _total: None,
    )  # fmt: skip


def test_traffic_goes_through_the_router_to_engines_that_cache() -> None:
    done = rehearsed()
    service = done.report.services[0]
    assert "simulated" in done.report.source
    assert (service.requests, done.errors, service.refused) == (80, {}, 0)
    assert sum(i.requests for i in done.report.instances) == 80
    assert len([i for i in done.report.instances if i.requests]) > 1
    assert service.prefix_hit_rate > 0.1
    assert service.ttft_ms["p50"] > 5 and service.tpot_ms["p50"] > 2


def test_a_machine_that_dies_costs_no_request_that_had_not_begun_to_be_answered() -> None:
    _, plan = planned()
    node = plan.instances[0].nodes[0]
    victims = tuple(i.id for i in plan.on_node(node))
    done = rehearsed((Fault("kill", victims, 2.0),))
    broken = sum(count for error, count in done.errors.items() if "broken" in error or "ended" in error)
    assert sum(done.errors.values()) == broken, "only streams that had begun are lost"
    assert broken < 20
    survivors = [i for i in done.report.instances if i.id not in victims]
    assert sum(i.requests for i in survivors) > 20


def test_a_machine_that_freezes_and_one_that_slows_cost_no_request() -> None:
    _, plan = planned()
    frozen, slow = (tuple(i.id for i in plan.on_node(node)) for node in ("big-0", "big-1"))
    done = rehearsed((Fault("freeze", frozen, 1.0, 2.0), Fault("slow", slow, 0.5)))
    assert (done.errors, done.report.services[0].requests) == ({}, 80)


@pytest.fixture
def stage() -> Stage:  # type: ignore[misc]
    decision, plan = planned()
    with staged(plan, fleet_of(decision, plan), 1.0, lambda _: None) as running:
        yield running


def test_bench_measures_calibrates_and_says_how_far_the_estimate_was(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An inventory whose addresses are the stage's; the engine takes what the plan expects, so the two must agree."""
    instance = next(i for i in stage.plan.instances)
    host, port = stage.addresses[instance.id]
    hosts = {i.nodes[0]: stage.addresses[i.id][0] for i in stage.plan.instances}
    text = FLEET.replace("10.0.1.[10-11]", f"{hosts['big-0'].rsplit('.', 1)[0]}.[{hosts['big-0'].rsplit('.', 1)[1]}-"
                         f"{hosts['big-1'].rsplit('.', 1)[1]}]").replace("10.0.2.10", hosts["small-0"])  # fmt: skip
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(text)
    assert main(["plan", str(inventory), "--quiet"]) == 0
    common = ["bench", instance.id, "-i", str(inventory), "-n", "24", "--input", "600", "--output", "40"]
    assert main([*common, "--users", "4", "--calibrate", "--json", "--svg", str(tmp_path / "b.svg")]) == 0
    body = json.loads(capsys.readouterr().out)
    figures, estimate = body["measured"][0]["figures"], body["estimates"][0]
    assert figures["errors"] == {} and figures["answer_tokens"] == 40
    assert abs(estimate["tpot_error"]) < 0.5
    assert estimate["planned_kv_blocks"] == estimate["measured_kv_blocks"] > 1000
    written = yaml.safe_load((tmp_path / "calibration.yaml").read_text())["measurements"][0]
    assert (written["gpu"], written["concurrency"], written["output_len"]) == ("H100-80G", 4.0, 40.0)
    assert written["kv_blocks"] == estimate["measured_kv_blocks"]
    assert (tmp_path / "b.svg").read_text().startswith("<svg")
    assert main(["plan", str(inventory), "--json", "--no-write"]) == 0
    expected = json.loads(capsys.readouterr().out)["instances"][0]["expected"]
    assert expected["source"] == "calibrated"
    assert (tmp_path / ".llmfleet" / "accuracy.jsonl").read_text().count("\n") == 1
    assert main(["bench", "--url", f"http://{host}:{port}", "--model", "chat", "--rate", "20", "-n", "30", "--knee",
                 "--input", "100", "--output", "5", "--ttft", "1", "--json"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["knees"][0]["points"]


def test_nobody_there_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--url", "http://127.0.0.1:9", "--model", "m"]) == 1
    assert "does not answer: cannot connect" in capsys.readouterr().err


def test_told_to_stop_an_engine_finishes_and_refuses(stage: Stage) -> None:
    import httpx

    name = stage.plan.instances[0].id
    host, port = stage.addresses[name]
    url = f"http://{host}:{port}/v1/completions"
    asked = {"model": "chat", "prompt": "x" * 400, "max_tokens": 60, "stream": True}
    with httpx.Client(trust_env=False) as client, client.stream("POST", url, json=asked) as answer:
        lines = answer.iter_lines()
        next(lines)
        stage.signal(name, signal.SIGTERM)
        refused = httpx.post(url, json={**asked, "stream": False}, trust_env=False)
        assert refused.status_code == 503
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert stage.processes[name].wait(10) == 0


def test_an_engine_without_a_specification_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmfleet.launch.rehearse.engine", "/nonexistent"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "nonexistent" in done.stderr
