"""keepalived's configuration beside the router's files, and what listens on the shared address."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import hosts_of, rag_plan

from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.keepalived import KEEPALIVED_FILE, keepalived_files
from llmfleet.launch.router.xds import from_yaml
from llmfleet.planner.plan import Plan, RouterPlan

HOSTS = {"head": "10.0.0.10", "n2": "10.0.0.11", "n3": "10.0.0.12"}


def plan(address: str | None = "10.0.0.9", also: tuple[str, ...] = ("n2", "n3"), bind: str = "10.0.0.10") -> Plan:
    return replace(rag_plan(), router=RouterPlan("head", bind, 8080, 9901, also, address))


def kept(node: str, made: Plan, interface: str | None = "bond0") -> str:
    return keepalived_files(made, node, HOSTS, interface)[KEEPALIVED_FILE]


def test_nodes_differ_in_their_own_place_only() -> None:
    first, second = (kept(node, plan()).splitlines() for node in ("head", "n2"))
    different = [(a.strip(), b.strip()) for a, b in zip(first, second, strict=True) if a != b]
    assert different == [
        ("priority 100", "priority 99"),
        ("unicast_src_ip 10.0.0.10", "unicast_src_ip 10.0.0.11"),
        ("10.0.0.11", "10.0.0.10"),
    ]


def test_another_fleet_in_the_network_has_another_number() -> None:
    numbers = {
        line
        for address in ("10.0.0.9", "10.0.0.8", "10.0.0.7")
        for line in kept("head", plan(address)).splitlines()
        if "virtual_router_id" in line
    }
    assert len(numbers) == 3


@pytest.mark.parametrize("made", [plan(None), plan("llm.example"), plan(also=())])
def test_without_an_address_that_moves_there_is_none(made: Plan) -> None:
    assert keepalived_files(made, "head", HOSTS) == {}


def test_an_interface_that_nobody_named_is_called_a_guess() -> None:
    assert "interface eth0  # a guess" in kept("head", plan(), interface=None)


# --- what listens -----------------------------------------------------------------------------------------------------


def addresses(node: str, made: Plan) -> tuple[list[str], bool]:
    hosts = {**hosts_of(made), **HOSTS}
    files = router_files(made, hosts=hosts, folder="/f", node=node)
    listener = from_yaml(files["xds/lds.yaml"])["resources"][0]
    all_of_them = [listener["address"], *(more["address"] for more in listener.get("additional_addresses", []))]
    return [a["socket_address"]["address"] for a in all_of_them], listener.get("freebind", False)


@pytest.mark.parametrize(
    ("node", "made", "expected"),
    [
        ("head", plan(), (["10.0.0.10", "10.0.0.9"], True)),
        ("n2", plan(), (["10.0.0.11", "10.0.0.9"], True)),
        ("n2", plan("llm.example"), (["10.0.0.11"], False)),
        ("n2", plan(bind="0.0.0.0"), (["0.0.0.0"], False)),
        ("head", plan("10.0.0.10"), (["10.0.0.10"], False)),
        ("head", plan(None, ()), (["10.0.0.10"], False)),
    ],
)
def test_each_listens_on_its_own_address_and_on_the_shared(
    node: str, made: Plan, expected: tuple[list[str], bool]
) -> None:
    assert addresses(node, made) == expected


def test_routers_have_the_same_files_but_for_where_they_listen() -> None:
    made = plan()
    hosts = {**hosts_of(made), **HOSTS}
    first, second = (router_files(made, hosts=hosts, folder="/f", node=node) for node in ("head", "n2"))
    assert [name for name in first if first[name] != second[name]] == ["xds/lds.yaml"]
    assert first["xds/lds.yaml"].replace("10.0.0.10", "10.0.0.11") == second["xds/lds.yaml"]
