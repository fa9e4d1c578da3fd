"""Finding inventory and plan, and what is said where they are missing, broken or do not belong together."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cli_fleet import INVENTORY, small_plan

from llmfleet.cli.workspace import load_fleet, plan_path, read_inventory, read_plan
from llmfleet.launch.events import Event, Note, silent
from llmfleet.planner.errors import InputError, InventoryError, StateError
from llmfleet.planner.inventory.digest import inventory_hash
from llmfleet.planner.plan import Plan, to_json


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


def write_plan(inventory: Path, plan: Plan) -> None:
    plan_path(inventory).parent.mkdir(exist_ok=True)
    plan_path(inventory).write_text(json.dumps(to_json(plan)))


def matching_plan(inventory: Path) -> Plan:
    return small_plan(inventory_hash(read_inventory(inventory)))


def test_fleet_of_inventory_and_plan(inventory: Path, tmp_path: Path) -> None:
    write_plan(inventory, matching_plan(inventory))
    fleet = load_fleet(inventory, silent, plan_must_match=True)
    assert fleet.plan == matching_plan(inventory)
    assert [n.name for n in fleet.inventory.nodes] == ["head", "slot-0", "slot-1"]
    assert fleet.folder == tmp_path / ".llmfleet"


def test_the_hash_is_the_same_from_everywhere(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_host = "  - {name: other, host: 10.0.0.1, runtime: {dir: /srv/other}}\nservices:"
    inventory.write_text(INVENTORY.replace("services:", shared_host))
    monkeypatch.chdir(inventory.parent)
    here, there = read_inventory(Path("inventory.yaml")), read_inventory(inventory)
    assert here.warnings
    assert inventory_hash(here) == inventory_hash(there)


def test_missing_inventory_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no inventory at") as caught:
        read_inventory(tmp_path / "inventory.yaml")
    assert "--inventory FILE" in caught.value.hint


def test_a_folder_is_no_inventory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_inventory(tmp_path)


def test_a_link_to_nowhere_and_a_loop(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="cannot be read"):
        read_inventory(loop)
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        read_inventory(tmp_path / ("x" * 300))


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(InventoryError):
        read_inventory(path)


@pytest.mark.parametrize("data", [b"", b"\x00\x01", b"\xff\xfe", b"[1, 2", b"nodes: 3"])
def test_a_file_that_is_no_inventory(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(data)
    with pytest.raises(InventoryError) as caught:
        read_inventory(path)
    assert all(p.file == str(path) for p in caught.value.problems)


def test_no_plan_yet(inventory: Path) -> None:
    with pytest.raises(InputError, match="has no plan yet") as caught:
        load_fleet(inventory, silent)
    assert caught.value.hint == f"Make one: llmfleet plan {inventory}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "null", '{"cluster": 3}'])
def test_a_file_that_is_no_plan(text: str, inventory: Path) -> None:
    plan_path(inventory).parent.mkdir()
    plan_path(inventory).write_text(text)
    with pytest.raises(InputError, match="is not a plan") as caught:
        load_fleet(inventory, silent)
    assert "llmfleet plan" in caught.value.hint


def test_a_plan_edited_by_hand_is_refused(inventory: Path) -> None:
    plan = matching_plan(inventory)
    write_plan(inventory, replace(plan, head="slot-0"))
    with pytest.raises(InputError, match="edited by hand"):
        read_plan(plan_path(inventory), inventory)


def test_instances_of_a_plan_are_no_paths(inventory: Path) -> None:
    body = to_json(matching_plan(inventory))
    body["instances"][0]["id"] = "../../x"
    plan_path(inventory).parent.mkdir()
    plan_path(inventory).write_text(json.dumps(body))
    with pytest.raises(InputError, match=r"is not a plan: instances\.0.*'\.\./\.\./x' is no name of a process"):
        read_plan(plan_path(inventory), inventory)


def test_a_plan_of_another_inventory(inventory: Path) -> None:
    write_plan(inventory, small_plan("another"))
    heard: list[Event] = []
    assert load_fleet(inventory, heard.append).plan == small_plan("another")
    assert [(e.level, "has changed since plan" in e.text) for e in heard if isinstance(e, Note)] == [("warning", True)]
    with pytest.raises(StateError, match="has changed since plan") as caught:
        load_fleet(inventory, silent, plan_must_match=True)
    assert caught.value.hint == f"Plan again: llmfleet plan {inventory}"


def test_a_plan_of_another_cluster_is_never_used(inventory: Path) -> None:
    write_plan(inventory, small_plan("another"))
    inventory.write_text(INVENTORY.replace("cluster: rag", "cluster: other"))
    with pytest.raises(StateError):
        load_fleet(inventory, silent)


def test_an_unknown_gpu_is_told_with_the_nearest(inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("1 x CPU-2G", "8 x A880-80G"))
    with pytest.raises(InventoryError) as caught:
        read_inventory(inventory)
    problem = caught.value.problems[0]
    assert (problem.line, problem.path) == (5, "nodes[1].gpus")
    assert "A800-80G" in problem.hint
