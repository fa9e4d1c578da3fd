"""A machine whose process 1 is a real systemd: namespaces of this one, with its files and its network. Needs root.

Of its units it has the few targets that a boot needs and what tests write to `etc`, so none of this machine's services.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
UNITS, GENERATORS = Path("/usr/lib/systemd/system"), Path("/usr/lib/systemd/system-generators")
TARGETS = (
    "basic", "exit", "final", "multi-user", "network", "network-online", "paths", "poweroff", "remote-fs", "shutdown",
    "slices", "sockets", "sysinit", "timers", "umount",
)  # fmt: skip
# $2 is seen by all users, and of the private folder $3 nothing else: a Python may lie in root's home.
BOOT = f"""\
if [ -n "$2" ]; then
  mount --bind "$2" "$1/none" && mount -t tmpfs -o mode=755 tmpfs "$3" && mkdir -p "$2" && mount --move "$1/none" "$2"
fi &&
mount -t tmpfs tmpfs /run && mkdir /run/systemd &&
mount --bind "$1/lib" {UNITS} && mount --bind "$1/etc" /etc/systemd/system && mount --bind "$1/none" {GENERATORS} &&
mount -t proc proc /proc && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=llmfleet {SYSTEMD} --system --unit=multi-user.target \
  --log-target=console --show-status=no
"""
INTO = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'  # a group of our own, before there are namespaces
_numbers = itertools.count()


class NoMachineError(Exception):
    """This machine cannot have one; the message says why."""


class Machine:
    """`etc` is its /etc/systemd/system, which outlives reboots."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.etc = folder, folder / "etc"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("lib", "etc", "none"):
            (folder / name).mkdir(parents=True)
        self._group = _cgroup2() / f"llmfleet-test-{os.getpid()}-{next(_numbers)}"
        if not SYSTEMD.exists() or not shutil.which("nsenter"):
            raise NoMachineError("no systemd, or no nsenter, here")
        for unit in (*(f"{name}.target" for name in TARGETS), "systemd-poweroff.service"):
            shutil.copy(UNITS / unit, folder / "lib")

    def boot(self) -> None:
        """Raises NoMachineError with systemd's own words where it does not come up."""
        with (self.folder / "console").open("ab") as console:
            self._group.mkdir()
            unshare = ("unshare", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child")
            boot = ("sh", "-c", BOOT, "sh", str(self.folder), *_hidden_python())
            argv = ("sh", "-c", INTO, "sh", str(self._group), *unshare, *boot)
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        deadline = time.monotonic() + 60
        while self._init is None or self.systemctl("is-system-running").stdout.strip() not in ("running", "degraded"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.power_cut()
                words = (self.folder / "console").read_text(errors="replace").strip() or "it says nothing"
                raise NoMachineError(f"systemd does not come up in namespaces here: {words.splitlines()[-1]}")
            time.sleep(0.1)

    def power_cut(self) -> None:
        if self._process is not None:
            self._process.kill()  # its child goes with it, and with that all of the namespace
            self._ended()

    def power_off(self) -> None:
        """In good order."""
        self.systemctl("poweroff")
        self._ended()

    def enter(self, *argv: str) -> list[str]:
        """The command, to be run there."""
        return ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-C", "--", *argv]

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = self.enter("systemctl", "--no-pager", *words)
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def units(self, *states: str) -> set[str]:
        """Of ours, those that systemd has loaded; only in these states, where any is named."""
        words = ("list-units", "--all", "--plain", "--no-legend", *(f"--state={s}" for s in states), "llmfleet-*")
        return {line.split()[0] for line in self.systemctl(*words).stdout.splitlines()}

    @property
    def _init(self) -> int | None:
        """Its process 1, by our count."""
        assert self._process is not None
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found = [int(c) for c in children if Path(f"/proc/{c}/comm").read_text().strip() == "systemd"]
        except OSError:
            return None
        return found[0] if found else None

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait(60)
        self._process = None
        deadline = time.monotonic() + 20
        while (self._group / "cgroup.events").read_text().startswith("populated 1") and time.monotonic() < deadline:
            time.sleep(0.05)
        for folder, _, _ in os.walk(self._group, topdown=False):
            Path(folder).rmdir()


def _hidden_python() -> tuple[str, str]:
    """The folder of our Python in one that only its owner may enter, and that; empty where everybody may."""
    path = Path(sys.executable).resolve()
    private = next((p for p in reversed(path.parents) if not p.stat().st_mode & 0o001), None)
    return (str(path.parents[-len(private.parts) - 1]), str(private)) if private else ("", "")


def _cgroup2() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    raise NoMachineError("no cgroup2 is mounted here")
