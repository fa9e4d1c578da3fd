"""What the units of systemd on a node have in common: the only things of ours outside our own folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.transport.base import Argv
from llmfleet.launch.units.words import quoted
from llmfleet.planner.inventory.model import Runtime

# Over SSH not every login has it, and without it systemctl finds no manager of the user's.
OF_USER = 'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"; exec systemctl --user "$@"'
# Left out, since an engine is to be the same whoever started it, and needs: devices (PrivateDevices, DevicePolicy,
# ProtectClock), /tmp, home and /dev/shm as everybody sees them (PrivateTmp, ProtectHome, PrivateIPC), memory that is
# written and then run (MemoryDenyWriteExecute), the kernel's modules for its driver (ProtectKernelModules), the
# network; and its supervisor the processes of others (ProtectProc).
HARDENED = ("NoNewPrivileges=yes", "LockPersonality=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes")


@dataclass(frozen=True, slots=True)
class NodeUnit(ABC):
    """`system`: of root's; else of the user's own manager."""

    suffix: ClassVar[str] = ".service"
    closed: ClassVar[tuple[str, ...]] = HARDENED

    cluster: str
    node: str
    folder: NodeFolder
    home: str
    system: bool

    @property
    def name(self) -> str:
        return f"llmfleet-{self.label}{self.suffix}"

    @property
    def label(self) -> str:
        return f"{self.cluster}-{self.node}"

    @property
    def path(self) -> str:
        return f"{self._units}/{self.name}"

    @property
    def wants(self) -> str:
        """The folder of the links that enabling makes."""
        return f"{self._units}/{self.target}.wants"

    @property
    def target(self) -> str:
        return "multi-user.target" if self.system else "default.target"

    @property
    @abstractmethod
    def description(self) -> str: ...

    @property
    @abstractmethod
    def ending(self) -> tuple[Argv, ...]:
        """What comes before its file is removed."""

    @abstractmethod
    def text(self, runtime: Runtime, boot: BootFacts) -> str:
        """The whole file. Raises InputError for paths that no unit can hold."""

    @property
    def _units(self) -> str:
        return "/etc/systemd/system" if self.system else f"{self.home}/.config/systemd/user"

    def systemctl(self, *words: str) -> Argv:
        return ("systemctl", *words) if self.system else ("sh", "-c", OF_USER, "sh", *words)

    def owns(self, text: bytes | None) -> bool:
        """Whether the file is this unit, of whatever time: other fleets, and watch, may come to the same name."""
        return text is not None and f"Description={self.description}".encode() in text.splitlines()

    def head(self, runtime: Runtime) -> tuple[str, ...]:
        """Its first section: whose it is, and what has to be there before it."""
        after = ["network-online.target", "remote-fs.target", *(["docker.service"] if runtime.kind == "docker" else [])]
        return (
            "[Unit]",
            f"Description={self.description}",
            "Wants=network-online.target",
            f"After={' '.join(after)}",
            *([f"RequiresMountsFor={quoted(self.folder.root)}"] if self.system else []),
        )

    def hardened(self, runtime: Runtime) -> tuple[str, ...]:
        """Not the clients of container runtimes, which set up namespaces and are setuid; nor units of users, where all
        of it implies NoNewPrivileges: the driver's nvidia-modprobe is setuid, and makes the GPUs' devices after a boot.
        """
        if runtime.kind != "process" or not self.system:
            return ()
        return (*self.closed, "ProtectSystem=full", f"ReadWritePaths={quoted(self.folder.root)}")
