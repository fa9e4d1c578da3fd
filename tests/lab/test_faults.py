"""What goes wrong before or during `up`: told by node, cause and next step, with its exit code; nothing is left."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.engines import EngineEnv
from tests.lab.fleet import LabFleet, Ran
from tests.lab.inventory import chat, inventory_yaml
from tests.lab.lab import OPS_PASSWORD, Lab

pytestmark = pytest.mark.lab

HOSTS = ("head", "h1", "h2")


@pytest.fixture
def fleet(lab: Lab, engine_env: EngineEnv, tmp_path: Path) -> Iterator[LabFleet]:
    """Two chat instances on h1 and h2, planned and not up."""
    made = LabFleet(lab, tmp_path)
    made.write(inventory_yaml(lab, engine_env, [chat(engine_env, ["h1"], ["h2"])], cluster="faults"))
    yield made
    for host in HOSTS:
        assert made.ours(host) == [], f"{host} runs something of ours"


def change(fleet: LabFleet, edit: Any) -> None:
    path = fleet.folder / "inventory.yaml"
    body = yaml.safe_load(path.read_text())
    edit(body)
    path.write_text(yaml.safe_dump(body))


def node(body: Any, name: str) -> Any:
    return next(n for n in body["nodes"] if n["name"] == name)


def refused(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, str(ran)
    assert not [w for w in words if w not in ran.err], str(ran)
    assert "Traceback" not in ran.err
    assert "→" in ran.err, "no next step: " + str(ran)


def untouched(fleet: LabFleet) -> None:
    """No file or process of ours on any host but the lock that a run takes, and no process in the state."""
    assert fleet.state["processes"] == {}
    for host in HOSTS:
        if fleet.lab[host].is_on:
            left = [
                f for f in fleet.lab[host].files("/root/.llmfleet/faults") if not f.endswith(("/lock", "/state.json"))
            ]
            assert left == [], left


def test_a_changed_host_key_is_refused(fleet: LabFleet) -> None:
    known = fleet.folder / "known_hosts"
    lines = fleet.lab.known_hosts.read_text().splitlines()
    keys = {line.split()[0]: line for line in lines}
    h1, h2 = fleet.lab["h1"].address, fleet.lab["h2"].address
    keys[h1] = " ".join([h1, *keys[h2].split()[1:]])
    known.write_text("\n".join(keys.values()) + "\n")
    change(fleet, lambda body: body["access"].update(known_hosts=str(known)))
    fleet.ok("plan")
    refused(fleet.run("up"), 3, "h1", "host key", "SHA256:")
    untouched(fleet)


def test_an_unknown_host_key_is_refused(fleet: LabFleet) -> None:
    (fleet.folder / "known_hosts").write_text("")
    change(fleet, lambda body: body["access"].update(known_hosts=str(fleet.folder / "known_hosts")))
    fleet.ok("plan")
    refused(fleet.run("up"), 3, "head", "ssh-keyscan")
    untouched(fleet)


def test_a_wrong_key_is_refused(fleet: LabFleet, tmp_path: Path) -> None:
    key = tmp_path / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    change(fleet, lambda body: node(body, "h2").update(access={"key": str(key)}))
    fleet.ok("plan")
    refused(fleet.run("up"), 3, "h2", "other_key")
    untouched(fleet)


def test_a_wrong_password_is_refused_and_never_shown(fleet: LabFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"not {OPS_PASSWORD}"
    monkeypatch.setenv("LAB_PASSWORD", secret)
    access = {"user": "ops", "password_env": "LAB_PASSWORD", "key": None}
    change(fleet, lambda body: node(body, "h2").update(access=access))
    fleet.ok("plan")
    ran = fleet.run("up")
    refused(ran, 3, "h2", "LAB_PASSWORD")
    assert secret not in ran.err + ran.out
    untouched(fleet)


def test_dead_hosts_are_all_named_at_once(fleet: LabFleet) -> None:
    fleet.ok("plan")
    fleet.lab["h1"].power_cut()
    fleet.lab["h2"].power_cut()
    refused(fleet.run("up"), 3, "h1", "h2")
    untouched(fleet)


def test_a_taken_port_is_named_with_its_holder(fleet: LabFleet) -> None:
    port = fleet.ok("plan", "--json").json["instances"][0]["port"]
    python = yaml.safe_load((fleet.folder / "inventory.yaml").read_text())["runtime"]["python"]
    holder = ["sh", "-c", f"cd /; {python} -m http.server {port} >/dev/null 2>&1 & echo $!"]
    pid = fleet.lab["h1"].exec(holder).stdout.strip()
    try:
        wait_until(lambda: port in fleet.lab["h1"].listening_ports())
        refused(fleet.run("up"), 1, "h1", f"port {port} is taken", f"process {pid}")
        untouched(fleet)
    finally:
        fleet.lab["h1"].exec(["kill", pid])


def test_weights_that_are_missing_on_one_host_are_named(fleet: LabFleet) -> None:
    path = "/srv/models/chat"
    fleet.lab["h1"].put_folder(
        path, Path(yaml.safe_load((fleet.folder / "inventory.yaml").read_text())["services"][0]["path"])
    )
    change(fleet, lambda body: body["services"][0].update(path=path))
    fleet.ok("plan")
    ran = fleet.run("up")
    refused(ran, 1, "h2", path)
    assert "h1:" not in ran.err
    untouched(fleet)


def test_fewer_gpus_than_the_inventory_says(fleet: LabFleet) -> None:
    """h1 claims 8 x A800 by a test double of nvidia-smi; the inventory says 4."""
    fleet.lab["h1"].install_double("nvidia-smi")

    def edit(body: Any) -> None:
        node(body, "h1").update(gpus="4 x A800-80G", runtime={"versions": {"vllm": "0.33.0"}})
        body["services"][0].update(precision=["bf16", "fp32"])

    change(fleet, edit)
    fleet.ok("plan")
    refused(fleet.run("up"), 1, "h1", "4 x A800-80G", "8")
    untouched(fleet)


def test_an_engine_that_dies_is_shown_with_its_last_words(fleet: LabFleet, engine_env: EngineEnv) -> None:
    broken = fleet.folder / "broken"
    shutil.copytree(engine_env.chat, broken)
    weights = broken / "model.safetensors"
    fleet.lab["h2"].put_folder("/srv/models/broken", broken)
    fleet.lab["h1"].put_folder("/srv/models/broken", broken)
    fleet.lab["h2"].put("/srv/models/broken/model.safetensors", weights.read_bytes()[:1000])
    change(fleet, lambda body: body["services"][0].update(path="/srv/models/broken"))
    fleet.ok("plan")
    try:
        ran = fleet.run("up")
        refused(ran, 1, "h2: chat-h2-0 did not start", "Unterminated string", "llmfleet logs chat-h2-0")
        assert fleet.engines("h1") == ["chat-h1-0"], "the other instance was not given its chance"
        assert "h2/chat-h2-0" in fleet.state["processes"]
        assert fleet.states() == {"chat-h1-0": "healthy", "chat-h2-0": "stopped"}
    finally:
        fleet.ok("down", "--yes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"cluster: x\nnoodles: []\n", ("noodles", "nodes", "inventory.yaml:2:1")),
        (b"", ("inventory.yaml", "empty")),
        (bytes(range(256)) * 40_000, ("inventory.yaml",)),
        (b"cluster: [x", ("inventory.yaml:",)),
    ],
    ids=["unknown key", "empty", "10 MB of garbage", "broken YAML"],
)
def test_a_bad_inventory_is_refused_with_its_place(
    tmp_path: Path, lab: Lab, text: bytes, words: tuple[str, ...]
) -> None:
    fleet = LabFleet(lab, tmp_path)
    (tmp_path / "inventory.yaml").write_bytes(text)
    for command in ("plan", "up", "status"):
        ran = fleet.run(command)
        assert ran.code == 2, str(ran)
        assert all(w in ran.err for w in words), str(ran)
        assert "Traceback" not in ran.err
        assert len(ran.err) < 5000


def wait_until(met: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)
