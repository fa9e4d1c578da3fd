"""From hosts that nobody knows to an inventory and a checked fleet: trust, init and doctor, over real SSH."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.lab.fleet import LabFleet
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("head", "h1", "h2")


@pytest.fixture
def fleet(lab: Lab, tmp_path: Path) -> LabFleet:
    """An inventory of three hosts, one of which claims eight A800; its known_hosts is empty."""
    made = LabFleet(lab, tmp_path)
    (tmp_path / "known_hosts").write_text("")
    lab["h1"].install_double("nvidia-smi")
    gpus = {"h1": "8 x A800-80G"}
    nodes = [{"name": n, "host": lab[n].address} | ({"gpus": gpus[n]} if n in gpus else {}) for n in HOSTS]
    access = {"user": "root", "key": str(lab.key), "known_hosts": "known_hosts"}
    made.write(yaml.safe_dump({"cluster": "first", "access": access, "nodes": nodes, "services": []}))
    return made


def results(ran: object, node: str) -> dict[str, str]:
    body = ran.json  # type: ignore[attr-defined]
    return {r["name"]: r["status"] for n in body["nodes"] if n["name"] == node for r in n["results"]}


def test_unknown_hosts_are_trusted_once_and_then_checked(fleet: LabFleet) -> None:
    before = fleet.run("doctor", "--json")
    assert before.code == 3
    assert [results(before, host) for host in HOSTS] == [{"host key": "fail"}] * 3
    assert fleet.run("trust", *HOSTS, "--yes").code == 0
    after = fleet.run("doctor", "--json")
    assert after.code in (0, 1), str(after)
    assert results(after, "h1")["gpus"] == "ok"
    assert results(after, "h2")["host key"] == "ok"
    assert results(after, "h2")["address"] == "ok"
    assert results(after, "head")["clock"] == "ok"


def test_a_dead_host_and_a_missing_card_are_told_in_one_run(fleet: LabFleet) -> None:
    fleet.ok("trust", *HOSTS, "--yes")
    path = fleet.folder / "inventory.yaml"
    path.write_text(path.read_text().replace("8 x A800", "4 x A800"))
    fleet.lab["h2"].power_cut()
    ran = fleet.run("doctor", "--json")
    assert ran.code == 3
    assert results(ran, "h2") == {"reach": "fail"}
    assert results(ran, "h1")["gpus"] == "fail"
    assert results(ran, "head")["reach"] == "ok"


def test_init_finds_what_the_hosts_claim(fleet: LabFleet) -> None:
    fleet.ok("trust", *HOSTS, "--yes")
    (fleet.folder / "inventory.yaml").unlink()
    hosts = [fleet.lab[name].address for name in HOSTS]
    options = ("--user", "root", "--key", str(fleet.lab.key), "--known-hosts", "known_hosts", "--out", "found.yaml")
    fleet.ok("init", *hosts, *options)
    text = (fleet.folder / "found.yaml").read_text()
    nodes = {n["host"]: n for n in yaml.safe_load(text)["nodes"]}
    assert nodes[fleet.lab["h1"].address]["gpus"] == "8 x A800-80G"
    assert "driver 550.54.15" in text
    again = fleet.ok("init", *hosts, *options)
    assert "agrees with 3 machines" in again.out
