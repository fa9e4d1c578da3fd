"""The systemd unit of each process on a node whose supervisors systemd keeps: `runtime: {supervisor: systemd}`.

One template for the node, an instance of it for each process. Its main process is our supervisor, which judges, drains
and logs as it does without; systemd brings it back when it is killed, and starts it at boot where it is enabled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from llmfleet.launch.fleet import READY, SUPERVISOR
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.transport.base import Argv
from llmfleet.launch.units.of_node import HARDENED, NodeUnit
from llmfleet.launch.units.words import command, escaped, quoted
from llmfleet.planner.inventory.model import Runtime

LONGEST_LABEL = 96  # so that a unit's name has room for a process's, in the 255 bytes that systemd and files take
GAVE_UP = 3  # exit code of supervisor.py
START_WITHIN_S = 240  # two minutes of ready.py, and leftovers of an earlier life are ended
STOP_WITHIN_S = 120  # longer than the supervisor takes, so that it is the one who ends its process
# Beyond what at_boot may do, by which an engine is to be the same as over SSH: nobody but systemd starts these.
CLOSED = (
    *HARDENED,
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "RestrictNamespaces=yes",
    "SystemCallArchitectures=native",
)


@dataclass(frozen=True, slots=True)
class ServiceUnit(NodeUnit):
    suffix: ClassVar[str] = "@.service"
    closed: ClassVar[tuple[str, ...]] = CLOSED

    @property
    def label(self) -> str:
        """Long names of fleet and node are cut, and told apart by a hash; `description` has them whole."""
        whole = f"{self.cluster}-{self.node}"
        if len(whole) <= LONGEST_LABEL:
            return whole
        return f"{whole[: LONGEST_LABEL - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def of(self, process: str) -> str:
        """The unit of one process. Their names have no character that means something to systemd."""
        return self.name.replace("@", f"@{process}")

    @property
    def description(self) -> str:
        return f"llmfleet: %i on {self.node} of {self.cluster}"

    @property
    def ending(self) -> tuple[Argv, ...]:
        """Without its file, systemd would not know how to stop what still runs."""
        return (
            self.systemctl("stop", self.of("*")),
            self.systemctl("disable", self.name),
            ("find", self.wants, "-maxdepth", "1", "-name", self.of("*"), "-delete"),
        )

    def text(self, runtime: Runtime, boot: BootFacts) -> str:
        root, script = self.folder.root, self.folder.script
        return "\n".join(
            [
                "# Of llmfleet, by `runtime: {supervisor: systemd}`. `llmfleet down`, or `up` without it, removes it.",
                *self.head(runtime),
                "StartLimitIntervalSec=0",
                "",
                "[Service]",
                "Type=notify",
                f"ExecStartPre={command((boot.python, script(READY), root))} %i",
                f"ExecStart={command((boot.python, script(SUPERVISOR), root))} %i",
                *(["User=root"] if self.system else []),  # for HOME
                f"Environment={quoted(f'PATH={boot.path}')}",
                f"StandardOutput=append:{escaped(root)}/run/%i/log",
                "Restart=on-failure",
                "RestartSec=2",
                "# It gave up on its process: for a person to look at.",
                f"RestartPreventExitStatus={GAVE_UP}",
                "# SIGTERM to the supervisor alone, which drains; what is left when that has ended is killed.",
                "KillMode=mixed",
                f"TimeoutStartSec={START_WITHIN_S}",
                f"TimeoutStopSec={STOP_WITHIN_S}",
                "OOMPolicy=continue",
                "TasksMax=infinity",
                "LimitNOFILE=65536:524288",
                "# For InfiniBand, which pins the memory that it sends.",
                "LimitMEMLOCK=infinity",
                "UMask=0077",
                *self.hardened(runtime),
                "",
                "[Install]",
                f"WantedBy={self.target}",
                "",
            ]
        )
