"""By which address nodes reach each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sim_fleet import Sim, make_inventory

from llmfleet.launch.up import up
from llmfleet.planner.errors import InventoryError
from llmfleet.planner.inventory.parse import parse

FILE = """cluster: c
nodes: [{{name: "n[1-2]", host: "gpu[1-2]", address: "{address}", gpus: 8 x A800-80G}}]
services: [{{name: chat, model: Qwen/Qwen1.5-72B-Chat}}]
"""


def bound(sim: Sim, node: str, process: str) -> str:
    (text,) = (t for path, t in sim.nodes[node].files.items() if path.endswith(f"{process}/spec.json"))
    argv = json.loads(text)["argv"]
    return str(argv[argv.index("--host") + 1])


def test_an_address_is_what_engines_and_router_use(sim: Sim) -> None:
    sim.inventory = make_inventory(h1={"host": "gpu1", "address": "10.8.0.1"})
    up(sim.fleet)
    assert bound(sim, "h1", "chat-h1-0") == "10.8.0.1"
    assert "10.8.0.1" in sim.eds("chat.main")


def test_a_name_that_only_ssh_config_knows_stands_for_its_host_name(
    sim: Sim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Host gpu1\n  HostName 10.8.0.1\nHost gpu2\n  HostName gpu2.example\n  ProxyCommand nc %h %p\n"
    )
    sim.inventory = make_inventory({"h1": "gpu1", "h2": "gpu2"})
    sim.nodes["head"].hosts = {"gpu2.example": "10.8.0.2"}
    up(sim.fleet)
    assert (bound(sim, "h1", "chat-h1-0"), bound(sim, "h2", "chat-h2-0")) == ("10.8.0.1", "10.8.0.2")


def test_a_range_of_addresses() -> None:
    inventory = parse(FILE.format(address="10.0.1.[10-11]"))
    assert [(n.host, n.address) for n in inventory.nodes] == [("gpu1", "10.0.1.10"), ("gpu2", "10.0.1.11")]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.1.10", r"nodes\[0\]\.address: stands for 1 address, but the name for 2"),
        ("10.0.1.[10-12]", "stands for 3 addresses, but the name for 2"),
        ("300.0.1.[10-11]", "is no IP address"),
        ("a b", "expected a host name or an IP address"),
    ],
)
def test_addresses_that_cannot_be(address: str, expected: str) -> None:
    with pytest.raises(InventoryError, match=expected):
        parse(FILE.format(address=address))
