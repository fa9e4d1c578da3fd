"""The lab is what it claims to be: hosts that die and come back as machines do, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import network
from tests.lab.hosts import Host
from tests.lab.lab import OPS_PASSWORD, PREFIX, Lab, sweep
from tests.lab.system import BASES

pytestmark = pytest.mark.lab
ROOT = Path(__file__).resolve().parents[2]


def test_every_host_answers_ssh_under_its_own_name(lab: Lab) -> None:
    names = {name: lab.ssh(name, "hostname") for name in lab.hosts}
    assert {name: done.stdout.strip() for name, done in names.items()} == {name: name for name in lab.hosts}


def test_a_host_key_that_is_not_the_known_one_is_refused(lab: Lab, tmp_path: Path) -> None:
    keys = {line.split()[0]: line for line in lab.known_hosts.read_text().splitlines()}
    h1, h2 = lab["h1"].address, lab["h2"].address
    swapped = tmp_path / "known_hosts"
    swapped.write_text(keys[h2].replace(h2, h1) + "\n")
    done = lab.ssh("h1", "-o", f"UserKnownHostsFile={swapped}", "true")
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_a_user_with_a_password_gets_in_with_that_one_only(lab: Lab) -> None:
    paramiko = pytest.importorskip("paramiko")

    def login(password: str) -> str:
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(lab.known_hosts))
            client.connect(lab["h1"].address, 22, "ops", password, look_for_keys=False, allow_agent=False)
            return str(client.exec_command("id -un")[1].read().decode().strip())

    assert login(OPS_PASSWORD) == "ops"
    with pytest.raises(paramiko.AuthenticationException):
        login(f"{OPS_PASSWORD}?")


def test_hosts_reach_each_other_and_this_machine_but_nothing_else(lab: Lab) -> None:
    h1 = lab["h1"]
    assert h1.exec(["bash", "-c", "read -N4 banner < /dev/tcp/h2/22; echo $banner"]).stdout.strip() == "SSH-"
    with socket.create_server((lab.gateway, 0)) as server:
        port = server.getsockname()[1]
        assert h1.exec(["bash", "-c", f": < /dev/tcp/{lab.gateway}/{port}"]).returncode == 0
    assert "unreachable" in h1.exec(["bash", "-c", ": < /dev/tcp/192.0.2.1/80"]).stderr


def test_a_host_has_files_processes_and_ports_of_its_own(lab: Lab) -> None:
    h1, h2 = lab["h1"], lab["h2"]
    for folder in ("/root", "/tmp", "/srv", "/run", "/dev/shm"):
        h1.exec(["touch", f"{folder}/lab-was-here"])
        assert f"{folder}/lab-was-here" in h1.files(folder)
        assert f"{folder}/lab-was-here" not in h2.files(folder)
        assert not Path(folder, "lab-was-here").exists()
    its_own = "until grep -q ^sleep /proc/$!/cmdline; do :; done"  # no longer the shell that became it
    sleeper = lab.ssh("h1", f"MARK=lab-test sleep 4711 > /dev/null 2>&1 & {its_own}; echo $!")
    mine = [p for p in h1.processes() if p.environ.get("MARK") == "lab-test"]
    assert [(p.pid, p.argv) for p in mine] == [(int(sleeper.stdout), ("sleep", "4711"))]
    assert not [p for p in h2.processes() if p.environ.get("MARK")]
    assert h1.listening_ports() == {22}


def test_a_host_starts_with_an_empty_home_and_no_shell_hook(lab: Lab) -> None:
    expected = "-e '^.ssh$' -e '^.bashrc$' -e '^.pyenv$' -e '^.llmfleet$'"  # the last: from tests before this one
    assert lab.ssh("h2", f"cat ~/.bashrc; ls -A ~ | grep -v {expected}").stdout == ""


def test_orphans_are_reaped(lab: Lab) -> None:
    lab.ssh("h1", "(setsid sh -c 'sleep 0.05' &) ; true")
    zombies = ["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status"]
    until(lambda: lab["h1"].exec(zombies).stdout == "", "no zombies")


def test_a_power_cut_takes_everything_but_the_disk(lab: Lab) -> None:
    h1 = lab["h1"]
    h1.put("/var/lib/kept", "on disk")
    h1.put("/dev/shm/lost", "in memory")
    with socket.create_connection((h1.address, 22), timeout=5) as open_connection:
        open_connection.recv(64)
        h1.power_cut()
        open_connection.settimeout(0.3)
        with pytest.raises(TimeoutError):  # no goodbye: the other side cannot tell it from a slow host
            open_connection.recv(64)
    assert not h1.is_on
    assert not reaches(h1)
    assert reaches(lab["h2"])
    h1.power_on()
    assert reaches(h1)
    assert lab.ssh("h1", "cat /var/lib/kept; ls /dev/shm").stdout == "on disk"


def test_an_unplugged_host_runs_on_unreached(lab: Lab) -> None:
    h1 = lab["h1"]
    lab.ssh("h1", "setsid sleep 4712 > /dev/null 2>&1 &")
    h1.unplug()
    assert not reaches(h1)
    assert ("sleep", "4712") in [p.argv for p in h1.processes()]
    h1.plug()
    until(lambda: reaches(h1), "the host answers again")


def test_the_gpu_double_says_what_it_claims(lab: Lab) -> None:
    h1 = lab["h1"]
    h1.install_double("nvidia-smi")
    listed = lab.ssh("h1", "nvidia-smi --query-gpu=index,name,memory.total --format=csv,noheader,nounits").stdout
    assert listed.splitlines() == [f"{index}, NVIDIA A800-SXM4-80GB, 81920" for index in range(8)]
    h1.exec(["rm", "/usr/local/bin/nvidia-smi"])


def test_nothing_remains_of_a_closed_lab() -> None:
    before = mounts()
    with Lab(("a", "b")) as small:
        tag = small.tag
        assert remains(tag)
    assert not remains(tag)
    assert mounts() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_remains_of_a_killed_run(number: signal.Signals) -> None:
    """SIGKILL leaves no chance to clean up: the next run does it."""
    argv = [sys.executable, "-c", HOLD]
    holder = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert holder.stdout is not None
    with holder.stdout as said:
        tag = said.readline().strip()
        assert remains(tag)
        holder.send_signal(number)
        holder.wait(timeout=60)
    if number == signal.SIGKILL:
        assert remains(tag)
        sweep()
    assert not remains(tag)


def test_a_sweep_leaves_living_labs_alone(lab: Lab) -> None:
    sweep()
    assert remains(lab.tag)
    assert all(reaches(host) for host in lab.hosts.values())


HOLD = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from tests.lab.lab import Lab
with Lab(("a",)) as lab:
    print(lab.tag, flush=True)
    time.sleep(600)
"""


def reaches(host: Host) -> bool:
    try:
        with socket.create_connection((host.address, 22), timeout=0.5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def remains(tag: str) -> list[str]:
    """What there is of a lab: folders, network devices, processes."""
    assert tag.startswith(PREFIX)
    folders = [str(base / tag) for base in BASES if (base / tag).exists()]
    processes = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and names_lab(entry, tag)]
    return folders + [t for t in network.tags() if t == tag] + processes


def names_lab(entry: Path, tag: str) -> bool:
    try:
        return f"/{tag}/".encode() in (entry / "cmdline").read_bytes()
    except OSError:
        return False


def mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def until(true: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not after {seconds:g} s: {what}"
        time.sleep(0.05)


def test_this_process_owns_its_lab(lab: Lab) -> None:
    assert lab.tag.startswith(f"{PREFIX}{os.getpid()}-")
