"""The systemd unit of a node that is to start again after a reboot what ran there: `runtime: {at_boot: true}`.

It only runs a script once; supervisors stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.launch.fleet import RESUME
from llmfleet.launch.nodes.facts import BootFacts
from llmfleet.launch.transport.base import Argv
from llmfleet.launch.units.of_node import NodeUnit
from llmfleet.launch.units.words import command, quoted
from llmfleet.planner.inventory.model import Runtime


@dataclass(frozen=True, slots=True)
class BootUnit(NodeUnit):
    @property
    def description(self) -> str:
        return f"llmfleet: what ran on {self.node} of {self.cluster} when it went down"

    @property
    def ending(self) -> tuple[Argv, ...]:
        """It stops too, which ends nothing now: without its file, systemd would take for its own what it had started.
        A user's manager may not run: then its link goes all the same."""
        return (self.systemctl("disable", "--now", self.name), ("rm", "-f", "--", f"{self.wants}/{self.name}"))

    def text(self, runtime: Runtime, boot: BootFacts) -> str:
        root = self.folder.root
        return "\n".join(
            [
                "# Of llmfleet, by `runtime: {at_boot: true}`. `llmfleet down`, or `up` without that key, removes it.",
                *self.head(runtime),
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
                *self.hardened(runtime),
                "",
                "[Install]",
                f"WantedBy={self.target}",
                "",
            ]
        )
