"""What the lab needs of the machine it runs on, and the reason where the machine cannot give it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

TOOLS = {  # and Debian's package of each
    "/usr/sbin/sshd": "openssh-server",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "nsenter": "util-linux",
}
# Where a lab's folder may lie, best first.
BASES = tuple(dict.fromkeys([Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]))


class LabUnavailableError(Exception):
    """The lab cannot run here; the message says why and what would help."""


def ensure_packages(tools: Mapping[str, str] = TOOLS, who: str = "the lab") -> None:
    """Installs Debian's packages for the tools that are missing; nothing where all are there."""
    missing = sorted({package for tool, package in tools.items() if shutil.which(tool) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabUnavailableError(f"{who} needs {', '.join(missing)}: install them as root, for example with apt-get")
    # A run level of 1 keeps the packages' own services from being started.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for argv in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(argv, env=quiet, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise LabUnavailableError(f"{who} needs {', '.join(missing)} and apt-get could not install them: {last}")


def require_lab() -> None:
    """Raises LabUnavailableError unless hosts can be made on this machine."""
    if sys.platform != "linux":
        raise LabUnavailableError("the lab makes hosts from Linux namespaces; this is no Linux")
    if os.geteuid() != 0:
        raise LabUnavailableError("the lab makes hosts from Linux namespaces, which needs root")
    ensure_packages()
    probe = _run(["unshare", "-m", "-p", "-u", "-n", "-i", "-f", "ip", "link", "add", "lfprobe", "type", "bridge"])
    if probe.returncode != 0:
        raise LabUnavailableError(f"this machine refuses new namespaces or bridges: {probe.stderr.strip()}")


def disk_folder() -> Path:
    """A folder where an overlay's upper layer may lie: not every file system can carry one."""
    for candidate in BASES:
        if candidate.is_dir() and _carries_overlay(candidate):
            return candidate
    raise LabUnavailableError(f"none of {', '.join(map(str, BASES))} can carry an overlay file system over /")


def _carries_overlay(candidate: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="llmfleet-probe-", dir=candidate) as name:
        for part in ("upper", "work", "root"):
            (Path(name) / part).mkdir()
        mount = f"mount -t overlay overlay -o lowerdir=/,upperdir={name}/upper,workdir={name}/work {name}/root"
        return _run(["unshare", "-m", "sh", "-c", f"{mount} && touch {name}/root/etc/writable"]).returncode == 0


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
