"""Several hosts on one network, with the keys to reach them, made for one run and removed whatever happens to it.

Everything a lab makes carries its tag, `llmfleet-lab-<pid>-<start of that process>-<number>`: its folder, the command
lines of its hosts' first processes, the aliases of its network devices. `sweep` removes what carries the tag of a
dead process.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from tests.lab import network
from tests.lab.hosts import Host
from tests.lab.system import BASES, disk_folder, require_lab

NAMES = ("head", "h1", "h2", "h3", "h4", "h5")
PREFIX = "llmfleet-lab-"
_numbers = itertools.count()
OPS_PASSWORD = "correct horse battery staple"  # of user `ops`, who may log in with nothing else
_OPS_HASH = "$6$labsalt$wI8k3IbVCKOEpnk1VDAs/YSutbkBgalzVfCehB9I4YGzg5JrIQU9V85FWlqQg1PG5ADoVLKBmOHEsh2PYpxXf."
SSHD_CONFIG = """\
HostKey /etc/ssh/lab_host_key
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication yes
KbdInteractiveAuthentication no
PidFile none
PrintMotd no
UseDNS no
Subsystem sftp internal-sftp
"""


class Lab:
    """Use as a context manager. `shared`: folders of this machine that every host sees, read-only, at the same path."""

    def __init__(self, names: Sequence[str] = NAMES, *, shared: Sequence[Path] = ()) -> None:
        self.names = tuple(names)
        self.shared = tuple(shared)
        self.tag = f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
        self.hosts: dict[str, Host] = {}
        self.folder = Path()
        self._owner = os.getpid()
        self._previous_sigterm: Any = None

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Lab:
        require_lab()
        sweep()
        self.folder = disk_folder() / self.tag
        atexit.register(self.close)
        self._catch_sigterm()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def key(self) -> Path:
        """Private key that root of every host accepts."""
        return self.folder / "client_key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def gateway(self) -> str:
        """This machine's address on the hosts' network."""
        return self._network.gateway

    def ssh(self, name: str, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command with OpenSSH, host key verified. The host's shell gets the words as one line."""
        argv = ["ssh", "-n", "-F", str(self.ssh_config), name, *command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)

    def restore(self) -> None:
        """All hosts on and plugged in, whatever was done to them."""
        for host in self.hosts.values():
            host.power_on()
            host.plug()

    def close(self) -> None:
        """Removes everything; safe to call again, and from a signal handler."""
        if os.getpid() != self._owner:
            return  # a fork of the owner is ending, not the owner
        with _Uninterrupted():
            for host in self.hosts.values():
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    host.power_cut()
            remove(self.tag)
            self.hosts.clear()
        atexit.unregister(self.close)
        self._restore_sigterm()

    def _build(self) -> None:
        self.folder.mkdir(mode=0o755)
        self._network = network.create(self.tag)
        _keygen(self.key)
        for port, name in enumerate(self.names):
            self.hosts[name] = Host(name, port, self._network, self.folder / name)
        for host in self.hosts.values():
            self._install(host)
        self._write_client_files()
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(Host.power_on, self.hosts.values()))

    def _install(self, host: Host) -> None:
        """Writes what differs from this machine onto the host's disk."""
        for part in ("upper/etc/ssh", "work", "root-fs", "root/.ssh", "home/ops", "tmp"):
            (host.folder / part).mkdir(parents=True)
        (host.folder / "tmp").chmod(0o1777)
        (host.folder / "root").chmod(0o700)
        (host.folder / "root/.ssh/authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (host.folder / "root/.bashrc").touch()
        os.chown(host.folder / "home/ops", 2000, 2000)
        (host.folder / "shared").write_text("".join(f"{path}\n" for path in self._shared_paths()))
        etc = host.folder / "upper/etc"
        (etc / "hostname").write_text(f"{host.name}\n")
        names = "".join(f"{other.address} {other.name}\n" for other in self.hosts.values())
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (etc / "ssh/lab_sshd_config").write_text(SSHD_CONFIG)
        _keygen(etc / "ssh/lab_host_key")
        _write_accounts(etc)

    def _shared_paths(self) -> list[Path]:
        """The folders asked for and this Python's own, as far as the overlay over / would not show them."""
        prefix = Path(sys.base_prefix).resolve()
        hidden = prefix.stat().st_dev != Path("/").stat().st_dev or prefix.parts[1] in ("root", "home", "tmp")
        return [*(path.resolve() for path in self.shared), *([prefix] if hidden else [])]

    def _write_client_files(self) -> None:
        hosts = self.hosts.values()
        keys = {host.name: (host.folder / "upper/etc/ssh/lab_host_key.pub").read_text().split()[:2] for host in hosts}
        self.known_hosts.write_text("".join(f"{host.address} {' '.join(keys[host.name])}\n" for host in hosts))
        common = f"""\
Host *
    User root
    IdentityFile {self.key}
    IdentitiesOnly yes
    UserKnownHostsFile {self.known_hosts}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 10
"""
        self.ssh_config.write_text("".join(f"Host {h.name}\n    HostName {h.address}\n" for h in hosts) + common)

    def _catch_sigterm(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous_sigterm = signal.signal(signal.SIGTERM, self._on_sigterm)

    def _restore_sigterm(self) -> None:
        if self._previous_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous_sigterm)
            self._previous_sigterm = None

    def _on_sigterm(self, number: int, _frame: FrameType | None) -> None:
        self.close()
        self._restore_sigterm()
        os.kill(os.getpid(), number)  # to whoever handled it before


def sweep() -> None:
    """Removes what killed runs left: whatever carries the tag of a process that lives no more."""
    folders = {path.name for base in BASES for path in base.glob(f"{PREFIX}*")}
    for tag in sorted(folders | network.tags()):
        if tag.startswith(PREFIX) and not _owner_lives(tag):
            remove(tag)


def remove(tag: str) -> None:
    """Ends the hosts of a tag, removes its devices and its folder."""
    deadline = time.monotonic() + 30
    while (left := _tagged_processes(tag)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    network.remove(tag)
    for base in BASES:
        shutil.rmtree(base / tag, ignore_errors=True)


def _owner_lives(tag: str) -> bool:
    pid, started, _ = tag.removeprefix(PREFIX).split("-")
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process started, in ticks since boot: with its pid it names a process for good. Empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _tagged_processes(tag: str) -> list[int]:
    """`unshare` and first processes of the tag's hosts: both name the host's folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(w.endswith(b"host_init.sh") for w in words) and any(f"/{tag}/".encode() in w for w in words):
                    found.append(int(entry.name))
    return found


def _keygen(path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


def _write_accounts(etc: Path) -> None:
    """This machine's accounts, root without a password, and `ops` with one."""
    passwd = Path("/etc/passwd").read_text()
    (etc / "passwd").write_text(passwd + "ops:x:2000:2000::/home/ops:/bin/bash\n")
    shadow = [line for line in Path("/etc/shadow").read_text().splitlines() if not line.startswith("root:")]
    shadow += [f"{user}:{password}:20000:0:99999:7:::" for user, password in (("root", "*"), ("ops", _OPS_HASH))]
    (etc / "shadow").write_text("\n".join(shadow) + "\n")
    (etc / "shadow").chmod(0o640)


class _Uninterrupted(contextlib.ContextDecorator):
    """Holds Ctrl-C back while the lab is removed."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        self._previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if self._main else None

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._previous)
