"""llmfleet export kubernetes, with the real planner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_fleet import Run

INVENTORY = """\
cluster: small
nodes:
  - {name: head, host: 10.0.0.1}
  - {name: "n[1-2]", host: "10.0.0.[2-3]", gpus: 2 x RTX-4090}
services:
  - {name: chat, model: Qwen/Qwen2.5-7B-Instruct, traffic: {rate: 1, input: {mean: 500}, output: {mean: 100}}}
"""


@pytest.fixture(autouse=True)
def inventory(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


def test_files_are_written_and_losses_told(run: Run, inventory: Path) -> None:
    assert run("plan", "-q").code == 0
    ran = run("export", "kubernetes")
    assert ran.code == 0
    assert ran.out.startswith("6 files in kubernetes\n")
    assert "What Kubernetes does not keep of the plan" in ran.out
    assert "kubectl apply -k kubernetes" in ran.out
    folder = inventory.parent / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert sorted([*listed["resources"], "kustomization.yaml"]) == sorted(p.name for p in folder.iterdir())
    assert listed["namespace"] == "small"


def test_options_and_json(run: Run, inventory: Path) -> None:
    run("plan", "-q")
    ran = run("export", "kubernetes", "--out", "k8s/rag", "-n", "llm", "--weights-claim", "models", "--json")
    body = json.loads(ran.out)
    assert body["folder"] == "k8s/rag"
    assert "chat-n.yaml" in body["files"]
    assert body["lost"]
    assert yaml.safe_load((inventory.parent / "k8s/rag/kustomization.yaml").read_text())["namespace"] == "llm"
    assert "claimName: models" in (inventory.parent / "k8s/rag/chat-n.yaml").read_text()


def test_files_of_an_earlier_plan_are_named(run: Run, inventory: Path) -> None:
    run("plan", "-q")
    (inventory.parent / "kubernetes").mkdir()
    (inventory.parent / "kubernetes" / "old-a800.yaml").write_text("")
    assert "Not of this plan: old-a800.yaml" in run("export", "kubernetes").out


def test_keys_are_printed_for_a_pipe_and_written_nowhere(run: Run, inventory: Path) -> None:
    run("plan", "-q")
    ran = run("export", "kubernetes", "--print-secret")
    assert ran.code == 2
    assert "asks clients for no keys" in ran.err
    inventory.write_text(INVENTORY + "router: {keys_file: ./keys}\n")
    (inventory.parent / "keys").write_text("team-a: sk-12345678\n")
    (inventory.parent / "keys").chmod(0o600)
    run("plan", "-q")
    assert yaml.safe_load(run("export", "kubernetes", "--print-secret").out)["kind"] == "Secret"
    assert not (inventory.parent / "kubernetes").exists()
    assert "--print-secret | kubectl apply -f -" in run("export", "kubernetes").out
    assert not any("sk-12345678" in p.read_text() for p in (inventory.parent / "kubernetes").iterdir())


def test_bad_input(run: Run, inventory: Path) -> None:
    ran = run("export", "kubernetes")
    assert ran.code == 2
    assert "has no plan yet" in ran.err
    inventory.write_text(INVENTORY.replace("name: chat", "name: chat.v2"))
    run("plan", "-q")
    ran = run("export", "kubernetes")
    assert ran.code == 2
    assert 'names that Kubernetes does not take: "chat.v2-n" (no DNS label)' in ran.err
    inventory.write_text(INVENTORY)
    run("plan", "-q")
    assert "cannot be written" in run("export", "kubernetes", "--out", "inventory.yaml").err
    assert run("export", "kubernetes", "-n", "Not_A_Name").code == 2
