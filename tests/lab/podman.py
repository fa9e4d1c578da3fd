"""A podman whose images, containers and settings all lie in one folder, with an image of this machine's own Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab.system import LabUnavailableError, ensure_packages

IMAGE = "localhost/llmfleet-lab-python:1"
PYTHON = Path("/usr/bin/python3")
# Without systemd and with limits that may not be raised, as inside another container
CONTAINERS = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
cgroupns = "host"
pids_limit = 0
default_ulimits = ["nproc=1000:1000", "nofile=1000:1000"]
"""


def podman_in(base: Path, files: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a podman that has the image, with these files in it. Raises LabUnavailableError."""
    ensure_packages({"podman": "podman", "runc": "runc"}, "the container test")
    base.mkdir(parents=True, exist_ok=True)
    (base / "containers.conf").write_text(CONTAINERS)
    storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{base}/root"\nrunroot = "{base}/run"\n'
    (base / "storage.conf").write_text(storage)
    own = {"CONTAINERS_CONF": str(base / "containers.conf"), "CONTAINERS_STORAGE_CONF": str(base / "storage.conf")}
    tree = python_tree(base / "image")
    for path, text in (files or {}).items():
        (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tree / path.lstrip("/")).write_text(text)
        (tree / path.lstrip("/")).chmod(0o755)
    done = run("podman", "import", shutil.make_archive(str(base / "image"), "tar", tree), IMAGE, env=own)
    if done.returncode != 0:
        raise LabUnavailableError(f"podman cannot import an image here: {done.stderr.strip()[-300:]}")
    trial = run("podman", "run", "--rm", "--network", "host", IMAGE, "/usr/bin/python3", "-c", "", env=own)
    if trial.returncode != 0:
        raise LabUnavailableError(f"podman runs no container here: {trial.stderr.strip()[-300:]}")
    return own


def python_tree(folder: Path) -> Path:
    """This machine's Python with its library and what it is linked to."""
    version = PYTHON.resolve()
    linked = run("ldd", str(version)).stdout.split()
    for path in [str(version), *(word for word in linked if word.startswith("/"))]:
        target = folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(f"/usr/lib/{version.name}", folder / "usr" / "lib" / version.name, symlinks=True)
    (folder / "usr" / "bin" / "python3").symlink_to(version.name)
    for name in ("tmp", "etc", "proc", "sys", "dev"):
        (folder / name).mkdir(exist_ok=True)
    return folder


def run(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})
