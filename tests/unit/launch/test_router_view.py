"""Show, diff and reload with this machine as head: files as they lie there, keys where they belong."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmfleet.launch.events import Event, Note
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.record.state import ProcessRecord, StateStore
from llmfleet.launch.router.clients import AUTH_FILE
from llmfleet.launch.router_view import router_diff, router_reload, router_show
from llmfleet.planner.errors import InputError, InventoryError
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.plan import Plan, RouterPlan

pytestmark = pytest.mark.live
KEYS = "team-a: sk-secret-a\nbatch: sk-secret-b low 5/s\n"
MakeFleet = Callable[..., Fleet]


@pytest.fixture
def fleet(tmp_path: Path) -> MakeFleet:
    python = Path(sys.executable)
    if not python.with_name("envoy").exists():  # an Envoy on PATH lies elsewhere
        python = Path(shutil.which("envoy") or "envoy").with_name("python3")

    def made(*, keys_file: str | None = "keys", noted: list[Event] | None = None) -> Fleet:
        (tmp_path / "keys").touch(0o600)
        inventory = parse(
            f"cluster: c\n"
            f"access: {{transport: local}}\n"
            f"runtime: {{python: {python}, dir: {tmp_path}/node}}\n"
            f"nodes: [{{name: head, host: 127.0.0.1, gpus: 1 x CPU-4G}}]\n"
            f"services: [{{name: chat, model: m}}]\n" + (f"router: {{keys_file: {keys_file}}}\n" if keys_file else "")
        )
        plan = Plan("c", "head", (), (), RouterPlan("head", "127.0.0.1", 8080, 9901))
        store = StateStore(tmp_path / ".llmfleet", "c")  # as if it were up
        store.remember_nodes(inventory.nodes, plan_hash=plan.hash, head="head")
        store.put_process(ProcessRecord("head", "router", "router", "", "started"))
        return Fleet(inventory, plan, tmp_path / ".llmfleet", (noted if noted is not None else []).append)

    return made


def on_node(tmp_path: Path, name: str) -> Path:
    return tmp_path / "node" / "c" / "head" / "router" / name


def test_reload_then_nothing_differs(fleet: MakeFleet, tmp_path: Path) -> None:
    made = fleet()
    (tmp_path / "keys").write_text(KEYS)
    assert "xds/lds.yaml" in router_diff(made)
    assert not on_node(tmp_path, AUTH_FILE).exists()
    assert [step.title for step in router_reload(made).changed] == ["router configuration"]
    assert router_diff(made) == {}
    assert router_reload(made).changed == ()
    assert "sk-secret-a" in on_node(tmp_path, AUTH_FILE).read_text()
    assert stat.S_IMODE(on_node(tmp_path, AUTH_FILE).stat().st_mode) == 0o600


def test_a_new_key_is_a_diff_of_one_file_without_the_key(fleet: MakeFleet, tmp_path: Path) -> None:
    made = fleet()
    (tmp_path / "keys").write_text(KEYS)
    router_reload(made)
    (tmp_path / "keys").write_text(KEYS.replace("secret-a", "changed-a"))
    diff = router_diff(made)
    assert list(diff) == [AUTH_FILE]
    removed, added = (line for line in diff[AUTH_FILE].splitlines()[2:] if line.startswith(("-", "+")))
    assert removed.startswith("-    - key: '*** ")
    assert added.startswith("+    - key: '*** ")
    assert removed[1:] != added[1:]
    router_reload(made)
    assert "sk-changed-a" in on_node(tmp_path, AUTH_FILE).read_text()


def test_keys_lie_nowhere_else(fleet: MakeFleet, tmp_path: Path) -> None:
    made = fleet()
    (tmp_path / "keys").write_text(KEYS)
    router_reload(made)
    holding = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file() and b"sk-secret" in path.read_bytes()
    }
    assert holding == {"keys", f"node/c/head/router/{AUTH_FILE}"}
    assert not any("sk-secret" in text for text in router_show(made).values())
    assert on_node(tmp_path, "checked.yaml").exists()


def test_keys_that_others_can_read_are_noted(fleet: MakeFleet, tmp_path: Path) -> None:
    noted: list[Event] = []
    made = fleet(noted=noted)
    (tmp_path / "keys").write_text(KEYS)
    router_show(made)
    assert noted == []
    (tmp_path / "keys").chmod(0o644)
    router_show(made)
    (note,) = noted
    assert isinstance(note, Note)
    assert (note.level, "chmod 600" in note.text) == ("warning", True)


def test_wrong_keys_change_nothing(fleet: MakeFleet, tmp_path: Path) -> None:
    made = fleet()
    (tmp_path / "keys").write_text(KEYS)
    router_reload(made)
    (tmp_path / "keys").write_text(KEYS + "team-c sk-secret-c\n")
    for operation in (router_show, router_diff, router_reload):
        with pytest.raises(InventoryError, match="keys:3"):
            operation(made)
    with pytest.raises(InputError, match="No such file"):
        router_reload(fleet(keys_file="nowhere"))
    assert "sk-secret-a" in on_node(tmp_path, AUTH_FILE).read_text()


def test_without_keys_the_door_is_open_again(fleet: MakeFleet, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEYS)
    router_reload(fleet())
    made = fleet(keys_file=None)
    assert set(router_diff(made)) == {AUTH_FILE, "xds/ecds/limits.yaml"}
    router_reload(made)
    assert "sk-secret" not in on_node(tmp_path, AUTH_FILE).read_text()
