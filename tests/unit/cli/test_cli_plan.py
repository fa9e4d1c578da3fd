"""llmfleet plan, with the real planner on a fleet of two CPU slots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fleet import Run

from llmfleet.cli.workspace import load_fleet
from llmfleet.launch.events import silent

INVENTORY = """\
cluster: small
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "slot-[0-1]", host: "10.0.0.[2-3]", gpus: 1 x CPU-4G}
services:
  - name: chat
    model: Qwen/Qwen2.5-0.5B-Instruct
    engine: llama.cpp
    precision: [q4_k_m]
    context: 1024
    traffic: {rate: 0.1, input: {mean: 100}, output: {mean: 50}}
"""


@pytest.fixture(autouse=True)
def inventory(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


def test_plan_is_shown_and_written(run: Run, inventory: Path) -> None:
    ran = run("plan")
    assert ran.code == 0
    assert ran.out.startswith("small: 3 nodes, 2 CPU slots")
    assert ran.err.startswith("plan ") and ".llmfleet/plan.json" in ran.err
    fleet = load_fleet(inventory, silent, plan_must_match=True)
    assert fleet.plan.hash[:6] in ran.out
    assert {i.service for i in fleet.plan.instances} == {"chat"}


def test_json_is_the_contracts_document_and_what_is_written(run: Run, inventory: Path) -> None:
    ran = run("plan", "--json")
    body = json.loads(ran.out)
    assert {"schema", "hash", "cluster", "instances", "services", "unused", "rejected", "warnings"} <= body.keys()
    assert {"id", "nodes", "gpus", "budget", "expected", "weight", "max_concurrency", "reason"} <= body["instances"][
        0
    ].keys()
    assert body == json.loads((inventory.parent / ".llmfleet" / "plan.json").read_bytes())
    assert ran.err == ""


def test_equal_inventories_have_equal_plans(run: Run, inventory: Path) -> None:
    first, second = run("plan", "--json"), run("plan", str(inventory), "--json")
    assert first.out == second.out


def test_no_write_and_quiet(run: Run, inventory: Path) -> None:
    ran = run("plan", "--no-write")
    assert ran.out
    assert ran.err == ""
    assert not (inventory.parent / ".llmfleet").exists()
    assert run("plan", "--quiet") == (0, "", "")
    assert (inventory.parent / ".llmfleet" / "plan.json").exists()


def test_out(run: Run, inventory: Path) -> None:
    assert run("plan", "--out", "elsewhere/plan.json", "-q").code == 0
    assert json.loads((inventory.parent / "elsewhere" / "plan.json").read_bytes())["cluster"] == "small"
    assert not (inventory.parent / ".llmfleet").exists()
    ran = run("plan", "--out", "inventory.yaml/plan.json")
    assert ran.code == 2
    assert "cannot be written to inventory.yaml/plan.json" in ran.err
    assert run("plan", "--out", "x", "--no-write").code == 2


def test_a_plan_short_of_demand_is_a_plan_and_says_so(run: Run, inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("rate: 0.1", "rate: 100000"))
    ran = run("plan", "--json")
    assert ran.code == 0
    body = json.loads(ran.out)
    assert body["services"][0]["capacity_rps"] < 100_000
    assert body["warnings"]


def test_mistakes_of_the_file_are_told_with_their_place(run: Run, inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("model:", "modle:").replace("traffic:", "trafic:"))
    ran = run("plan")
    assert ran.code == 2
    assert "inventory.yaml:7:5" in ran.err and "inventory.yaml:11:5" in ran.err
    problems = json.loads(run("plan", "--json").out)["error"]["problems"]
    assert {p["line"] for p in problems} >= {7, 11}


def test_a_model_nobody_knows_names_the_nearest(run: Run, inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instrct"))
    ran = run("plan")
    assert ran.code == 2
    assert "Qwen/Qwen2.5-0.5B-Instruct" in ran.err


def test_missing_inventory(run: Run) -> None:
    ran = run("plan", "nowhere.yaml")
    assert ran.code == 2
    assert ran.err.startswith("error: there is no inventory at nowhere.yaml\n  → ")


def test_everything_wrong_with_models_is_told_at_once_and_where(run: Run, inventory: Path) -> None:
    inventory.write_text(
        INVENTORY.replace("Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instrukt").replace("q4_k_m", "q4_k_n")
        + "  - {name: embed, model: BAAI/bge-m3, task: generate}\n"
        + "  - {name: own, model: acme/x, config: nowhere/config.json}\n"
    )
    ran = run("plan")
    assert ran.code == 2
    told = ran.err.splitlines()
    assert told[0] == "error: 4 problems in inventory.yaml"
    places = [line.removeprefix("inventory.yaml").split(": ")[0] for line in told[1:]]
    assert places == [
        ":7:12  services[0].model",
        ":9:17  services[0].precision[0]",
        ":12:45  services[1].task",
        ":13:40  services[2].config",
    ]
    assert "Nearest: Qwen/Qwen2.5-0.5B-Instruct" in told[1]
    assert '"q4_k_n" is no known precision. Nearest: q4_k_s, q4_k_m' in told[2]
    assert "cannot generate. Its task is embed or rerank." in told[3]
    assert "no such file or folder" in told[4]
    assert not (inventory.parent / ".llmfleet").exists()


def test_a_calibration_beside_the_inventory_is_used(run: Run, inventory: Path) -> None:
    before = json.loads(run("plan", "--json").out)["instances"][0]["expected"]
    assert before["source"] == "roofline"
    figures = "output_len: 50, concurrency: 1, tpot_ms: 90"
    run_of = "gpu: CPU-4G, engine: llama.cpp, model: Qwen/Qwen2.5-0.5B-Instruct, precision: q4_k_m, input_len: 100"
    file = inventory.parent / "calibration.yaml"
    file.write_text(f"measurements: [{{{run_of}, {figures}}}]\n")
    plan = json.loads(run("plan", "--json").out)
    after, reason = plan["instances"][0]["expected"], plan["instances"][0]["reason"]
    assert after["source"] == "calibrated"
    assert after["tpot_ms"] > 1.2 * before["tpot_ms"]
    factor = reason.split("As measured: decode steps take ")[1].split()[0]
    assert float(factor) > 1.2
    assert any(f"was measured to take {factor} times what is estimated" in warning for warning in plan["warnings"])
    file.write_text("measurements: [{gpu: CPU-4G}]\n")
    broken = run("plan")
    assert broken.code == 2
    assert "calibration.yaml:1:16" in broken.err
    assert "measurements[0].model: this key is missing" in broken.err


def test_a_page(run: Run, inventory: Path) -> None:
    ran = run("plan", "--html", "pages/plan.html", "--no-write")
    assert ran.code == 0
    assert ran.out.startswith("small: 3 nodes")
    assert ran.err == "its page is pages/plan.html\n"
    assert (inventory.parent / "pages" / "plan.html").read_text().startswith("<!doctype html>")
    assert not (inventory.parent / ".llmfleet").exists()
    assert json.loads(run("plan", "--html", "plan.html", "--json").out)["cluster"] == "small"


def test_a_page_that_cannot_be_written(run: Run) -> None:
    ran = run("plan", "--html", "inventory.yaml/plan.html")
    assert ran.code == 2
    assert "inventory.yaml/plan.html cannot be written" in ran.err
    assert run("plan", "--html", "x.html", "--what-if", "+1 slot").code == 2
