"""What a check may look at: one node, what it said of itself, and what the plan wants of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance


@dataclass(frozen=True, slots=True)
class View:
    """`instances` are those planned on the node: none where the plan does not have it, or there is no plan."""

    node: Node
    facts: NodeFacts
    folder: NodeFolder
    address: str  # by which other nodes reach it
    instances: tuple[Instance, ...] = ()
    ports: frozenset[int] = frozenset()  # that must be free, or ours
    head: str = ""  # the plan's head node
    routers: tuple[str, ...] = ()  # the plan's nodes of routers
    needs_ray: bool = False
    on_serve: bool = False  # Ray Serve runs a part of itself here
    serve_llm: bool = False  # and imports vLLM
    source_bytes: Mapping[str, int] = field(default_factory=dict)  # path on the node → bytes to be copied there
    names: Mapping[str, str] = field(default_factory=dict)  # address → node
    ray: Mapping[str, str | None] = field(default_factory=dict)  # node → its Ray, of those that share a cluster
    pythons: Mapping[str, str | None] = field(default_factory=dict)  # node → its engines' Python, of the same
    vllm: Mapping[str, str | None] = field(default_factory=dict)  # node → its vLLM, of those that share an instance
    mtus: Mapping[str, int] = field(default_factory=dict)  # node → MTU of its interface, of those that share instances

    @property
    def has_router(self) -> bool:
        return self.node.name in self.routers

    @property
    def is_head(self) -> bool:
        return self.node.name == self.head

    @property
    def spanning(self) -> tuple[Instance, ...]:
        return tuple(i for i in self.instances if i.spans_nodes)

    @property
    def first_of(self) -> tuple[Instance, ...]:
        """Instances whose process runs here."""
        return tuple(i for i in self.instances if i.nodes[0] == self.node.name)
