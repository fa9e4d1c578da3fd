"""llmfleet init: who asks the machines, and that the inventory says so."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cli_fleet import Run

from llmfleet.launch.transport.fake import FakeTransport
from llmfleet.planner.inventory.model import Access, Node
from llmfleet.planner.inventory.parse import parse

SAID = {
    "hostname": "gpu-1", "kernel": "6", "machine": "x86_64", "python": "3.11", "cpus": 4, "epoch": time.time(),
    "user": "root", "uid": 0, "home": "/root", "interface": "eth0", "memory": {"total": 1 << 36, "available": 1 << 36},
    "shm_bytes": 1, "disks": {}, "models": {}, "ports": [], "gpus": "", "gpu_error": "No such file", "envoy": None,
    "engine_error": None, "import_error": None, "engine_python": None, "processes": [], "shm_free": 1, "nofile": [1, 1],
    "proxies": [], "no_proxy": "", "binds": True, "address": None, "gpu_users": [], "other_gpus": {}, "topology": "",
    "smi": "", "routes": {}, "runtimes": {}, "images": {}, "interfaces": {}, "units": [], "boot": None,
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Access]:
    """As whom each machine was asked."""
    found: list[Access] = []

    def open_transport(node: Node) -> FakeTransport:
        found.append(node.access)
        transport = FakeTransport(node.name)
        transport.reply(("python3",), stdout=json.dumps(SAID))
        return transport

    monkeypatch.setattr("llmfleet.launch.discover.ask.open_transport", open_transport)
    return found


@pytest.mark.parametrize(
    ("options", "access", "line"),
    [
        ((), {}, None),
        (("--user", "ops"), {"user": "ops"}, "access: {user: ops}"),
        (("--sudo",), {"sudo": True}, "access: {sudo: true}"),
        (
            ("--user", "ops", "--sudo", "--sudo-password-env", "PW"),
            {"user": "ops", "sudo": True, "sudo_password_env": "PW"},
            "access: {user: ops, sudo: true, sudo_password_env: PW}",
        ),
    ],
)
def test_machines_are_asked_as_the_inventory_will(
    options: tuple[str, ...], access: dict[str, object], line: str | None, run: Run, asked: list[Access], tmp_path: Path
) -> None:
    ran = run("init", "10.0.0.1", *options)
    assert (ran.code, ran.err) == (0, "")
    text = (tmp_path / "inventory.yaml").read_text()
    assert next((words.partition("   #")[0] for words in text.splitlines() if words.startswith("access")), None) == line
    assert asked == [Access(**access)] == [parse(text, nodes_only=True).nodes[0].access]  # type: ignore[arg-type]


def test_a_machine_more_that_wants_sudo_says_so_itself(run: Run, asked: list[Access], tmp_path: Path) -> None:
    run("init", "10.0.0.1")
    ran = run("init", "10.0.0.2", "--sudo", "--merge")
    assert ran.code == 0
    nodes = parse((tmp_path / "inventory.yaml").read_text(), nodes_only=True).nodes
    assert [(n.host, n.access.sudo) for n in nodes] == [("10.0.0.1", False), ("10.0.0.2", True)]
