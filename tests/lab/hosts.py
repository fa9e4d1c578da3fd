"""One host of the lab: namespaces of its own with a disk, a network card, an address, a process tree and sshd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.network import Network
from tests.lab.system import LabUnavailableError

INIT = Path(__file__).with_name("host_init.sh")
DOUBLES = Path(__file__).with_name("doubles")
NAMESPACES = ("-m", "-p", "-u", "-n", "-i")  # mounts, processes, name, network, shared memory
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process as the host itself sees it."""

    pid: int
    argv: tuple[str, ...]
    environ: Mapping[str, str]


@dataclass
class Host:
    """Made by Lab. Its disk outlives a power cut; /run, /dev/shm, processes, connections and the address do not."""

    name: str
    port: int  # of the switch
    network: Network
    folder: Path
    _unshare: subprocess.Popen[str] | None = field(default=None, repr=False)
    _init: int = 0

    @property
    def address(self) -> str:
        return self.network.address(self.port)

    @property
    def is_on(self) -> bool:
        return self._unshare is not None and self._unshare.poll() is None

    def power_on(self) -> None:
        """Returns when sshd answers."""
        if self.is_on:
            return
        for volatile in (self.folder / "tmp").iterdir():
            _delete(volatile)
        with (self.folder / "console.log").open("a") as console:
            self._unshare = subprocess.Popen(
                ["unshare", *NAMESPACES, "-f", "--kill-child", "sh", str(INIT), *self._init_arguments()],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=console, text=True, start_new_session=True,
                env={"PATH": PATH},
            )  # fmt: skip
        assert self._unshare.stdin is not None and self._unshare.stdout is not None
        with self._unshare.stdin as switch, self._unshare.stdout as answer:
            self._init = int(answer.readline() or "0")
            if self._init:
                self.network.connect(self.port, self._init)
                switch.write("\n")
                switch.flush()
                answer.readline()  # its network is up: now an attempt to connect is answered at once, yes or no
        self._wait_for_sshd()

    def power_cut(self) -> None:
        """Everything dies at once and the address vanishes: nobody gets a goodbye."""
        self.network.disconnect(self.port)
        if self._unshare is not None:
            if self._init and self.is_on:
                os.kill(self._init, signal.SIGKILL)  # the kernel ends all others of its namespace
            else:
                self._unshare.kill()
            self._unshare.wait(timeout=30)
        self._unshare, self._init = None, 0

    def unplug(self) -> None:
        """The network cable is pulled: everything on the host keeps running."""
        self.network.set_cable(self.port, up=False)

    def plug(self) -> None:
        self.network.set_cable(self.port, up=True)

    def exec(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command on the host as root, past SSH. A command that fails is not an error here."""
        env = {"PATH": PATH, "HOME": "/root"}
        whole = [*self._enter(), *argv]
        return subprocess.run(whole, input=stdin, env=env, capture_output=True, text=True, timeout=timeout, check=False)

    def processes(self) -> list[HostProcess]:
        """All processes of the host but its first one; those that end while we look are left out."""
        inside = _namespace(self._init)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._init and _namespace(int(entry.name)) == inside:
                with contextlib.suppress(OSError, StopIteration):
                    found.append(_read_process(entry))
        return sorted((p for p in found if p.argv), key=lambda p: p.pid)

    def listening_ports(self) -> set[int]:
        """TCP ports that something on the host listens on, on any of its addresses."""
        return {port for table in ("tcp", "tcp6") for port in _listening(Path(f"/proc/{self._init}/net/{table}"))}

    def files(self, path: str) -> list[str]:
        """What lies under a folder of the host and is no folder itself. Empty if there is no such folder.

        Folders that the host only shares with this machine are left out.
        """
        root, shared = self.outside("/"), (self.folder / "shared").read_text().splitlines()
        found = []
        for folder, folders, names in os.walk(self.outside(path)):
            here = Path("/", Path(folder).relative_to(root))
            folders[:] = [name for name in folders if str(here / name) not in shared]
            found += [str(here / name) for name in names]
        return sorted(found)

    def put(self, path: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Writes a file on the host, making its folders; it must be on."""
        target = self.outside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def put_folder(self, path: str, source: Path) -> None:
        """Copies a folder of this machine onto the host's disk."""
        shutil.copytree(source, self.outside(path), dirs_exist_ok=True)

    def install_double(self, name: str) -> None:
        """Puts one of tests/lab/doubles on the host's PATH, so that the host claims what it does not have."""
        self.put(f"/usr/local/bin/{name}", (DOUBLES / name).read_bytes(), mode=0o755)

    def outside(self, path: str) -> Path:
        """A path of the running host as this machine reaches it. Absolute symbolic links on the way lead astray."""
        return Path(f"/proc/{self._init}/root") / path.lstrip("/")

    def console(self) -> str:
        """What the host's first process and its sshd wrote, over all its lives."""
        log = self.folder / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _init_arguments(self) -> tuple[str, str, str]:
        return str(self.folder), self.name, f"{self.address}/24"

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self._init), *NAMESPACES, "-r", "-w/", "--"]

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + 30
        while self.is_on and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.address, 22), timeout=1) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        last = self.console().strip().splitlines()[-3:]
        raise LabUnavailableError(f"host {self.name} did not come up: {' / '.join(last) or 'it said nothing'}")


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _read_process(entry: Path) -> HostProcess:
    status = (entry / "status").read_text()
    inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
    argv = _words(entry / "cmdline")
    pairs = (word.partition("=") for word in _words(entry / "environ"))
    return HostProcess(int(inner), argv, {key: value for key, _, value in pairs})


def _words(file: Path) -> tuple[str, ...]:
    text = file.read_bytes().decode(errors="replace")
    return tuple(text.rstrip("\0").split("\0")) if text else ()


def _listening(table: Path) -> Iterator[int]:
    if table.exists():
        for line in table.read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                yield int(local.rpartition(":")[2], 16)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
