"""OpenSSH's own sshd on the loopback address, as the user who runs the tests. What it needs lies in one folder."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd started by root refuses to work without that folder


class RealSshd:
    """`options` are further lines of sshd_config. The client's key is `folder/client`. `inside` starts it."""

    def __init__(self, folder: Path, *options: str, inside: Sequence[str] = ()) -> None:
        self.folder, self.user, self._inside = folder, getpass.getuser(), inside
        folder.mkdir(exist_ok=True)
        self.host_key, self.key = folder / "host", folder / "client"
        for key in (self.host_key, self.key):
            keygen("-t", "ed25519", "-N", "", "-f", str(key))
        authorized = folder / "authorized_keys"
        authorized.write_text((folder / "client.pub").read_text())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}", f"HostKey {self.host_key}", f"AuthorizedKeysFile {authorized}",
            "PidFile none", "UsePAM no", "StrictModes no", "PermitRootLogin yes", "LogLevel VERBOSE", *options,
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RealSshd:
        assert SSHD
        if getpass.getuser() == "root":
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [*self._inside, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return self
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def name(self) -> str:
        return f"[127.0.0.1]:{self.port}"

    def known_hosts_line(self) -> str:
        return f"{self.name} {self.public}\n"

    @property
    def public(self) -> str:
        return " ".join((self.folder / "host.pub").read_text().split()[:2])


def keygen(*words: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], check=True, stdin=subprocess.DEVNULL, capture_output=True)
