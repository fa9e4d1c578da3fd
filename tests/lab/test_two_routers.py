"""Two routers behind one address that keepalived moves: the head's machine dies, and clients go on at the other."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet
from tests.lab.inventory import inventory_yaml, story
from tests.lab.lab import Lab
from tests.lab.load import Load
from tests.lab.system import LabUnavailableError, ensure_packages

pytestmark = pytest.mark.lab

FIRST, SECOND = "head", "h3"
WHERE_IT_LISTENS = {"xds/lds.yaml", "bootstrap.yaml", "keepalived.conf"}  # the folder's name has the node's


def shared_address(lab: Lab) -> str:
    return f"{lab[FIRST].address.rpartition('.')[0]}.200"


@pytest.fixture(scope="module")
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFleet]:
    try:
        ensure_packages({"/usr/sbin/keepalived": "keepalived", "/usr/bin/curl": "curl"}, "routers with one address")
    except LabUnavailableError as error:
        pytest.skip(str(error))
    made = LabFleet(lab, tmp_path_factory.mktemp("two-routers"))
    router = {"also": [SECOND], "address": shared_address(lab)}
    made.write(inventory_yaml(lab, engine_env, [story(engine_env, ["h1"], ["h2"])], cluster="two", router=router))
    made.ok("plan")
    yield made
    made.run("down", "--yes", "--skip-unreachable")
    for host in (FIRST, SECOND):
        lab[host].exec(["pkill", "keepalived"])


def folder(fleet: LabFleet, node: str) -> str:
    return f"/root/.llmfleet/two/{node}/router"


def files(fleet: LabFleet, node: str) -> dict[str, str]:
    root = folder(fleet, node)
    names = [n.removeprefix(f"{root}/") for n in fleet.lab[node].files(root)]
    wanted = [n for n in names if n in WHERE_IT_LISTENS or n.startswith("xds/")]
    return {n: fleet.lab[node].outside(f"{root}/{n}").read_text() for n in wanted}


def holder(fleet: LabFleet) -> list[str]:
    """Hosts that have the shared address now."""
    address = shared_address(fleet.lab)
    on = [host for host in (FIRST, SECOND) if fleet.lab[host].is_on]
    return [host for host in on if address in fleet.lab[host].exec(["ip", "-4", "address", "show", "eth0"]).stdout]


def wait_for_holder(fleet: LabFleet, host: str) -> None:
    deadline = time.monotonic() + 60
    while (found := holder(fleet)) != [host]:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_up_starts_both_with_the_same_configuration(fleet: LabFleet) -> None:
    report = fleet.ok("up", "--json", timeout=900).json
    assert report["address"] == f"http://{shared_address(fleet.lab)}:8080"
    routers = fleet.ok("status", "--json").json["routers"]
    assert [(r["node"], r["state"]) for r in routers] == [(FIRST, "healthy"), (SECOND, "healthy")]
    first, second = files(fleet, FIRST), files(fleet, SECOND)
    moved = {n: text.replace(folder(fleet, FIRST), folder(fleet, SECOND)) for n, text in first.items()}
    assert {n for n in second if moved.get(n) != second[n]} == {"xds/lds.yaml", "keepalived.conf"}
    assert fleet.ok("up", "--json").json["changed"] == []


def test_the_head_s_machine_dies_and_clients_go_on(fleet: LabFleet) -> None:
    for host in (FIRST, SECOND):  # whoever is there first has the address
        started = fleet.lab[host].exec(["/usr/sbin/keepalived", "-l", "-f", f"{folder(fleet, host)}/keepalived.conf"])
        assert started.returncode == 0, started.stderr
        wait_for_holder(fleet, FIRST)
    with Load(f"http://{shared_address(fleet.lab)}:8080", "story", clients=2, max_tokens=2, timeout=15) as load:
        load.wait_for(10)
        fleet.lab[FIRST].power_cut()
        load.wait_for(20, seconds=180)
        moved = time.monotonic()  # what a client still waits for from the dead host ends later
        load.wait_for(20, seconds=180)
        assert not [r for r in load.failed if r.started > moved], load.summary()
    assert holder(fleet) == [SECOND]
    seen = fleet.run("status", "--json").json
    assert [(r["node"], r["state"]) for r in seen["routers"]] == [(FIRST, "unreachable"), (SECOND, "healthy")]
    assert any("head is unreachable, and with it the router" in problem for problem in seen["problems"])


def test_it_comes_back_and_the_address_stays(fleet: LabFleet) -> None:
    fleet.lab[FIRST].power_on()
    fleet.ok("up", timeout=900)
    fleet.wait_until_planned()
    assert holder(fleet) == [SECOND]


def test_a_router_that_is_away_hears_of_a_drain_later(fleet: LabFleet) -> None:
    fleet.lab[SECOND].unplug()
    ran = fleet.ok("drain", "h1")
    assert f"{SECOND}: warning: its router keeps the old configuration" in ran.err
    assert "llmfleet router reload" in ran.err
    fleet.lab[SECOND].plug()
    assert list(fleet.ok("router", "diff", "--json").json) == [f"{SECOND}:xds/eds/story.main.yaml"]
    fleet.ok("router", "reload")
    assert fleet.ok("router", "diff", "--json").json == {}
    fleet.ok("undrain", "h1")
    fleet.wait_until_planned()
