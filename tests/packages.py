"""Debian's packages that live tests use, installed before them: a skipped test shows nothing."""

from __future__ import annotations

import sys

from tests.lab.system import LabUnavailableError, ensure_packages

TOOLS = {  # and Debian's package of each
    "/usr/sbin/sshd": "openssh-server",
    "ssh": "openssh-client",
    "systemd-analyze": "systemd",
    "sudo": "sudo",
    "chromium": "chromium",
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "kubectl": "kubernetes-client",
    "podman": "podman",
    "runc": "runc",
}

if __name__ == "__main__":
    try:
        ensure_packages(TOOLS, "some live tests")
    except LabUnavailableError as error:
        sys.stderr.write(f"{error}; until then they are skipped\n")
