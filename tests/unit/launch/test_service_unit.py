"""The unit of supervisors that systemd keeps: its whole text, what systemd says of it, and `up` on simulated nodes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sim_fleet import PIPELINE, Sim, make_inventory, make_plan
from test_at_boot import Systemd
from test_boot_unit import HOSTILE, words

from llmfleet.launch.down import down
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.session import open_session
from llmfleet.launch.transport.base import Completed
from llmfleet.launch.units.service import ServiceUnit
from llmfleet.launch.up import Up, UpOptions, up
from llmfleet.planner.inventory.model import Runtime

OF_ROOT = """\
# Of llmfleet, by `runtime: {supervisor: systemd}`. `llmfleet down`, or `up` without it, removes it.
[Unit]
Description=llmfleet: %i on a800-0 of rag
Wants=network-online.target
After=network-online.target remote-fs.target
RequiresMountsFor=/root/.llmfleet/rag/a800-0
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStartPre=/opt/vllm/bin/python /root/.llmfleet/rag/a800-0/bin/ready.py /root/.llmfleet/rag/a800-0 %i
ExecStart=/opt/vllm/bin/python /root/.llmfleet/rag/a800-0/bin/supervisor.py /root/.llmfleet/rag/a800-0 %i
User=root
Environment=PATH=/usr/local/bin:/usr/bin
StandardOutput=append:/root/.llmfleet/rag/a800-0/run/%i/log
Restart=on-failure
RestartSec=2
# It gave up on its process: for a person to look at.
RestartPreventExitStatus=3
# SIGTERM to the supervisor alone, which drains; what is left when that has ended is killed.
KillMode=mixed
TimeoutStartSec=240
TimeoutStopSec=120
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=65536:524288
# For InfiniBand, which pins the memory that it sends.
LimitMEMLOCK=infinity
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
RestrictNamespaces=yes
SystemCallArchitectures=native
ProtectSystem=full
ReadWritePaths=/root/.llmfleet/rag/a800-0

[Install]
WantedBy=multi-user.target
"""
TEMPLATE, CHAT = "llmfleet-rag-h1@.service", "llmfleet-rag-h1@chat-h1-0.service"
FILE = f"/home/ops/.config/systemd/user/{TEMPLATE}"
INSTALL = ("h1", f"have systemd keep supervisors: {TEMPLATE}")
REMOVE = ("h1", f"have systemd keep nothing: remove {TEMPLATE}")


def unit(root: str = "/root/.llmfleet/rag/a800-0", *, system: bool = True) -> ServiceUnit:
    return ServiceUnit("rag", "a800-0", NodeFolder(root), "/home/ops", system)


def text(of: ServiceUnit, python: str = "/opt/vllm/bin/python", path: str = "/usr/local/bin:/usr/bin", **k: Any) -> str:
    return of.text(Runtime(**k), BootFacts(True, True, True, python, path))


def test_the_whole_unit_of_root() -> None:
    assert text(unit()) == OF_ROOT
    assert unit().path == "/etc/systemd/system/llmfleet-rag-a800-0@.service"
    assert unit().of("chat-0") == "llmfleet-rag-a800-0@chat-0.service"


@pytest.mark.parametrize("kind", ["", "-rank15"])
def test_names_fit_and_stay_apart_however_long(kind: str) -> None:
    cluster, node, process = "c" * 63, "n" * 63, f"{'s' * 63}-{'n' * 63}-999{kind}"
    made = ServiceUnit(cluster, node, NodeFolder("/x"), "/root", True)
    assert len(made.of(process)) <= 255
    other = replace(made, node="n" * 62 + "m")
    assert made.name != other.name
    assert made.description != other.description
    assert ServiceUnit("c" * 32, node, NodeFolder("/x"), "/root", True).name == f"llmfleet-{'c' * 32}-{node}@.service"


def test_units_of_users_and_of_containers_are_not_hardened() -> None:
    assert "NoNewPrivileges" not in text(unit(system=False))
    assert "WantedBy=default.target\n" in text(unit(system=False))
    contained = text(unit(), kind="docker")
    assert "remote-fs.target docker.service\n" in contained
    assert "NoNewPrivileges" not in contained


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
@pytest.mark.parametrize("name", ["plain", *HOSTILE])
@pytest.mark.parametrize("system", [True, False])
def test_systemd_takes_it(tmp_path: Path, name: str, system: bool) -> None:
    folder = tmp_path / name
    folder.mkdir()
    python = (tmp_path if set(name) & set("$\"'\\") else folder) / "python"
    shutil.copy("/bin/true", python)
    made = unit(str(folder), system=system)
    (tmp_path / made.name).write_text(text(made, str(python), f"/usr/bin:{folder}"))
    instance = tmp_path / made.of("chat")
    argv = ["systemd-analyze", *([] if system else ["--user"]), "verify", "--man=no", str(instance)]
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert [line for line in done.stderr.splitlines() if "llmfleet-" in line] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_arrives_as_it_is(name: str) -> None:
    for line in text(unit(f"/srv/{name}/n")).splitlines():
        if line.startswith("ExecStart"):
            *before, process = line.partition("=")[2].rsplit(" ", 1)
            assert process == "%i"
            assert words(before[0])[2] == f"/srv/{name}/n"


@pytest.fixture
def systemd(sim: Sim) -> Systemd:
    keep(sim)
    return Systemd(sim.nodes["h1"])


def keep(sim: Sim, **keys: Any) -> None:
    sim.inventory = make_inventory(h1={"runtime": Runtime(**{"supervisor": "systemd", **keys})})


def changed(sim: Sim, **options: bool) -> list[tuple[str, str]]:
    return [(c.node, c.title) for c in up(sim.fleet, UpOptions(**options)).changed]


def test_up_writes_the_template_before_it_starts_anything(sim: Sim, systemd: Systemd) -> None:
    steps = changed(sim)
    assert steps.index(INSTALL) < steps.index(("h1", "start chat-h1-0"))
    assert systemd.told == ["--user daemon-reload"], "enabling is for the supervisor's script, process by process"
    node = sim.nodes["h1"]
    assert f"/bin/supervisor.py {node.folder.root} %i\n" in node.files[FILE].decode()
    assert f'"unit": "{CHAT}"' in node.files[f"{node.folder.process('chat-h1-0')}/spec.json"].decode()
    assert changed(sim) == []


def test_another_keeper_is_another_process(running: Sim) -> None:
    """Which is rolled, so that requests finish; the way back too."""
    systemd = Systemd(running.nodes["h1"])
    running.nodes["h1"].handle("find", lambda argv, _: Completed(argv, 0, "", ""))
    keep(running)
    steps = changed(running)
    assert INSTALL in steps
    assert ("head", "take chat-h1-0 out of rotation") in steps
    keep(running, supervisor="detached")
    systemd.told.clear()
    assert changed(running, dry_run=True)[-1] == REMOVE
    assert changed(running)[-1] == REMOVE, "when nothing runs by it any more"
    assert systemd.told == [
        "--user stop llmfleet-rag-h1@*.service", f"--user disable {TEMPLATE}", "--user daemon-reload"
    ]  # fmt: skip
    assert FILE not in running.nodes["h1"].files
    assert changed(running) == []


def test_a_unit_that_somebody_disabled_is_enabled_again(sim: Sim, systemd: Systemd) -> None:
    changed(sim)
    sim.nodes["h1"].processes["chat-h1-0"]["at_boot"] = False
    sim.nodes["h1"].actions.clear()
    again = ("h1", "have systemd start chat-h1-0 at boot")
    assert changed(sim, dry_run=True) == [again]
    assert changed(sim) == [again]
    assert sim.nodes["h1"].actions == [("start", "chat-h1-0")], "and not stopped: the script on the node enables it"
    sim.nodes["h1"].processes["chat-h1-0"]["at_boot"] = True
    assert changed(sim) == []


def test_it_takes_the_place_of_at_boot(running: Sim) -> None:
    Systemd(running.nodes["h1"])
    keep(running, supervisor="detached", at_boot=True)
    assert changed(running) == [("h1", "start engines at boot: llmfleet-rag-h1.service")]
    keep(running, at_boot=True)
    assert ("h1", "start nothing at boot: remove llmfleet-rag-h1.service") in changed(running)
    assert changed(running) == []


def test_a_node_that_drains_keeps_the_template(running: Sim) -> None:
    Systemd(running.nodes["h1"])
    keep(running)
    changed(running)
    keep(running, supervisor="detached")
    with open_session(running.fleet) as session:
        session.store.change(lambda s: replace(s, draining=("h1",)))
    assert REMOVE not in changed(running)
    assert FILE in running.nodes["h1"].files


def test_down_removes_it_after_the_processes(sim: Sim, systemd: Systemd) -> None:
    sim.nodes["h1"].handle("find", lambda argv, _: Completed(argv, 0, "", ""))
    up(sim.fleet)
    steps = [(s.node, s.title) for s in down(sim.fleet).stopped]
    assert steps.index(("h1", "stop chat-h1-0")) < steps.index(REMOVE)
    assert steps.index(REMOVE) < steps.index(("h1", "remove our files but the logs"))
    assert sim.nodes["h1"].files == {}
    assert systemd.told[-1] == "--user daemon-reload"
    assert down(sim.fleet).stopped == ()


def test_only_what_makes_sense_alone_is_started_at_boot(sim: Sim) -> None:
    nodes = {name: {"runtime": Runtime(supervisor="systemd")} for name in ("head", "h1", "h2", "h3", "h4")}
    sim.inventory = make_inventory(**nodes)
    with open_session(sim.fleet) as session:
        work = Up(session)
        session.connect([session.node(n) for n in nodes])
        work.nodes = list(nodes)
        kept = {p.name: p.at_boot for p in (*work.ray, *work.engines)}
        assert all(p.unit == f"llmfleet-rag-{p.node}@{p.name}.service" for p in (*work.ray, *work.engines))
    assert kept["chat-h1-0"]
    assert not kept[PIPELINE]
    assert not kept["ray-head"] and not kept["ray-worker"]


def test_on_ray_serve_nothing_makes_sense_alone(sim: Sim) -> None:
    nodes = {name: {"runtime": Runtime(supervisor="systemd")} for name in ("head", "h1", "h2")}
    sim.inventory, sim.plan = make_inventory(**nodes), make_plan({"chat-h1-0": ("h1",), "chat-h2-0": ("h2",)})
    with open_session(sim.fleet) as session:
        session.asked_runtime = "ray-serve"
        work = Up(session)
        session.connect([session.node(n) for n in nodes])
        work.nodes = list(nodes)
        kept = [*work.ray, *work.engines]
    assert {p.name for p in kept} == {"ray-head", "ray-worker", "application"}
    assert not any(p.at_boot for p in kept) and all(p.unit for p in kept)
