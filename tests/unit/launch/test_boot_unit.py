"""The unit of a node that comes back after a reboot: its whole text, and what systemd says of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.units.boot import BootUnit
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Runtime

OF_ROOT = """\
# Of llmfleet, by `runtime: {at_boot: true}`. `llmfleet down`, or `up` without that key, removes it.
[Unit]
Description=llmfleet: what ran on a800-0 of rag when it went down
Wants=network-online.target
After=network-online.target remote-fs.target
RequiresMountsFor=/root/.llmfleet/rag/a800-0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/vllm/bin/python /root/.llmfleet/rag/a800-0/bin/resume.py /root/.llmfleet/rag/a800-0
User=root
Environment=PATH=/usr/local/bin:/usr/bin
# The supervisors are no part of this unit, though they are in its group: not to be stopped with it.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
ProtectSystem=full
ReadWritePaths=/root/.llmfleet/rag/a800-0

[Install]
WantedBy=multi-user.target
"""
OF_A_USER = """\
# Of llmfleet, by `runtime: {at_boot: true}`. `llmfleet down`, or `up` without that key, removes it.
[Unit]
Description=llmfleet: what ran on a800-0 of rag when it went down
Wants=network-online.target
After=network-online.target remote-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/vllm/bin/python /home/ops/.llmfleet/rag/a800-0/bin/resume.py /home/ops/.llmfleet/rag/a800-0
Environment=PATH=/usr/local/bin:/usr/bin
# The supervisors are no part of this unit, though they are in its group: not to be stopped with it.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
UMask=0077

[Install]
WantedBy=default.target
"""
HOSTILE = ["a b", 'quo"te', "apo'strophe", "per%cent", "dollar$HOME", "${x}", "semi;colon", "a\\b", "%h", "ünï🦙"]


def unit(root: str = "/root/.llmfleet/rag/a800-0", *, home: str = "/root", system: bool = True) -> BootUnit:
    return BootUnit("rag", "a800-0", NodeFolder(root), home, system)


def text(of: BootUnit, python: str = "/opt/vllm/bin/python", path: str = "/usr/local/bin:/usr/bin", **keys: Any) -> str:
    return of.text(Runtime(**keys), BootFacts(True, True, True, python, path))


def test_the_whole_unit_of_root() -> None:
    assert text(unit()) == OF_ROOT
    assert unit().path == "/etc/systemd/system/llmfleet-rag-a800-0.service"
    assert unit().systemctl("enable", "x") == ("systemctl", "enable", "x")


def test_the_whole_unit_of_a_user() -> None:
    own = unit("/home/ops/.llmfleet/rag/a800-0", home="/home/ops", system=False)
    assert text(own) == OF_A_USER
    assert own.path == "/home/ops/.config/systemd/user/llmfleet-rag-a800-0.service"
    assert own.systemctl("enable", "x")[-2:] == ("enable", "x")


def test_containers_wait_for_docker_and_are_hardened_by_themselves() -> None:
    contained = text(unit(), kind="docker")
    assert "After=network-online.target remote-fs.target docker.service\n" in contained
    assert "NoNewPrivileges" not in contained
    assert "docker" not in text(unit(), kind="podman")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
@pytest.mark.parametrize("name", ["plain", *HOSTILE])
@pytest.mark.parametrize("system", [True, False])
def test_systemd_takes_it(tmp_path: Path, name: str, system: bool) -> None:
    folder = tmp_path / name
    folder.mkdir()
    python = (tmp_path if set(name) & set("$\"'\\") else folder) / "python"
    shutil.copy("/bin/true", python)
    made = unit(str(folder), system=system)
    file = tmp_path / made.name
    file.write_text(text(made, str(python), f"/usr/bin:{folder}"))
    argv = ["systemd-analyze", *([] if system else ["--user"]), "verify", "--man=no", str(file)]
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert [line for line in done.stderr.splitlines() if made.name in line] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_arrives_as_it_is(name: str) -> None:
    """Read back by the rules of man systemd.service and systemd.unit."""
    line = next(n for n in text(unit(f"/srv/{name}/n")).splitlines() if n.startswith("ExecStart="))
    assert words(line.removeprefix("ExecStart=")) == [
        "/opt/vllm/bin/python", f"/srv/{name}/n/bin/resume.py", f"/srv/{name}/n"
    ]  # fmt: skip


def words(line: str) -> list[str]:
    """Quotes, then specifiers, then variables: %% and $$ are one of them, alone they would mean something."""
    found, word, quote, rest = [], "", False, iter(line)
    for c in rest:
        if c == '"':
            quote = not quote
        elif c == " " and not quote:
            found.append(word)
            word = ""
        else:
            word += next(rest) if c == "\\" else c
    found.append(word)
    for sign in "%$":
        assert not any(sign in w.replace(sign * 2, "") for w in found)
        found = [w.replace(sign * 2, sign) for w in found]
    return found


def test_what_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match="cannot stand in a unit file"):
        text(unit("/srv/a\nExecStart=/bin/sh"))
    for sign in "$\"'\\":
        with pytest.raises(InputError, match="systemd cannot start"):
            text(unit(), f"/opt/a{sign}b/python")


def test_its_own_file_is_known_also_with_other_content() -> None:
    assert unit().owns(OF_ROOT.encode())
    assert unit("/elsewhere").owns(OF_ROOT.encode()), "`dir` may change"
    other = BootUnit("rag-a800", "0", NodeFolder("/n"), "/root", True)
    assert other.name == unit().name
    assert not other.owns(OF_ROOT.encode())
    assert not unit().owns(None)
