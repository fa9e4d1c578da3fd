"""What every launch operation works on, and where things lie on a node and beside the inventory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmfleet.launch.events import Observer, silent
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.plan import Plan

SUPERVISE = "supervise.py"
PROBE = "probe.py"
RESUME = "resume.py"
SUPERVISOR, READY = "supervisor.py", "ready.py"
FETCH = "fetch.py"
SERVE_FILES, PULL_FILES, LIST_MODEL = "serve_files.py", "pull_files.py", "list_model.py"


@dataclass(frozen=True, slots=True)
class Fleet:
    """An inventory with the plan made from it, and the folder beside it that keeps plan, state and lock."""

    inventory: Inventory
    plan: Plan
    folder: Path  # .llmfleet beside the inventory
    observe: Observer = silent

    def planned_nodes(self) -> tuple[Node, ...]:
        """Nodes that carry something: those of routers and of instances, in the inventory's order."""
        carrying = {self.plan.head, *self.plan.router.also, *(name for i in self.plan.instances for name in i.nodes)}
        return tuple(n for n in self.inventory.nodes if n.name in carrying)


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """Absolute paths of ours on one node. Nothing of llmfleet is written elsewhere, but units of systemd."""

    root: str

    @property
    def bin(self) -> str:
        return f"{self.root}/bin"

    @property
    def run(self) -> str:
        return f"{self.root}/run"

    @property
    def models(self) -> str:
        return f"{self.root}/models"

    @property
    def router(self) -> str:
        return f"{self.root}/router"

    @property
    def logs(self) -> str:
        return f"{self.root}/logs"

    @property
    def state(self) -> str:
        return f"{self.root}/state.json"

    @property
    def keys(self) -> str:
        return f"{self.root}/keys"

    @property
    def plans(self) -> str:
        return f"{self.root}/plans"

    @property
    def audit(self) -> str:
        return f"{self.logs}/audit.log"

    @property
    def lock(self) -> str:
        return f"{self.root}/lock"

    def script(self, name: str) -> str:
        return f"{self.bin}/{name}"

    def process(self, name: str) -> str:
        return f"{self.run}/{name}"


def node_folder(node: Node, cluster: str, home: str) -> NodeFolder:
    """The node's name is part of the path, so that several nodes may share one machine."""
    base = node.runtime.dir
    if base == "~" or base.startswith("~/"):
        base = home + base[1:]
    return NodeFolder(f"{base.rstrip('/')}/{cluster}/{node.name}")
