"""The systemd unit of a node that is to start again after a reboot what ran there: `runtime: {at_boot: true}`.

It is the one thing of ours outside our own folder. It only runs a script once; supervisors stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.launch.fleet import RESUME, NodeFolder
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.transport.base import Argv
from llmfleet.launch.units.words import command, quoted
from llmfleet.planner.inventory.model import Runtime

# Over SSH not every login has it, and without it systemctl finds no manager of the user's.
OF_USER = 'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"; exec systemctl --user "$@"'
# Left out, since an engine is to be the same whether a person or a boot started it, and needs: devices (PrivateDevices,
# DevicePolicy, ProtectClock), /tmp, home and /dev/shm as everybody sees them (PrivateTmp, ProtectHome, PrivateIPC),
# memory that is written and then run (MemoryDenyWriteExecute), the kernel's modules for its driver (ProtectKernel*),
# the network; and its supervisor the processes of others (ProtectProc).
HARDENED = ("NoNewPrivileges=yes", "LockPersonality=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes")


@dataclass(frozen=True, slots=True)
class BootUnit:
    """`system`: of root's; else of the user's own manager."""

    cluster: str
    node: str
    folder: NodeFolder
    home: str
    system: bool

    @property
    def name(self) -> str:
        return f"llmfleet-{self.cluster}-{self.node}.service"

    @property
    def path(self) -> str:
        return f"{self._units}/{self.name}"

    @property
    def link(self) -> str:
        """What enabling it makes."""
        return f"{self._units}/{self._target}.wants/{self.name}"

    @property
    def _units(self) -> str:
        return "/etc/systemd/system" if self.system else f"{self.home}/.config/systemd/user"

    @property
    def _target(self) -> str:
        return "multi-user.target" if self.system else "default.target"

    @property
    def _description(self) -> str:
        return f"Description=llmfleet: what ran on {self.node} of {self.cluster} when it went down"

    def systemctl(self, *words: str) -> Argv:
        return ("systemctl", *words) if self.system else ("sh", "-c", OF_USER, "sh", *words)

    def owns(self, text: bytes | None) -> bool:
        """Whether the file is this unit, of whatever time: other fleets, and watch, may come to the same name."""
        return text is not None and self._description.encode() in text.splitlines()

    def text(self, runtime: Runtime, boot: BootFacts) -> str:
        """The whole file. Raises InputError for paths that no unit can hold."""
        after = ["network-online.target", "remote-fs.target", *(["docker.service"] if runtime.kind == "docker" else [])]
        root = self.folder.root
        return "\n".join(
            [
                "# Of llmfleet, by `runtime: {at_boot: true}`. `llmfleet down`, or `up` without that key, removes it.",
                "[Unit]",
                self._description,
                "Wants=network-online.target",
                f"After={' '.join(after)}",
                *([f"RequiresMountsFor={quoted(root)}"] if self.system else []),
                "",
                "[Service]",
                "Type=oneshot",
                "RemainAfterExit=yes",
                f"ExecStart={command((boot.python, self.folder.script(RESUME), root))}",
                *(["User=root"] if self.system else []),  # for HOME
                f"Environment={quoted(f'PATH={boot.path}')}",
                "# The supervisors are no part of this unit, though they are in its group: not to be stopped with it.",
                "KillMode=process",
                "OOMPolicy=continue",
                "TasksMax=infinity",
                "UMask=0077",
                *(self._hardened(runtime) if self.system else ()),
                "",
                "[Install]",
                f"WantedBy={self._target}",
                "",
            ]
        )

    def _hardened(self, runtime: Runtime) -> tuple[str, ...]:
        """Not the clients of container runtimes, which set up namespaces and are setuid; nor units of users, where all
        of it implies NoNewPrivileges: the driver's nvidia-modprobe is setuid, and makes the GPUs' devices after a boot.
        """
        if runtime.kind != "process":
            return ()
        return (*HARDENED, "ProtectSystem=full", f"ReadWritePaths={quoted(self.folder.root)}")
