"""inventory.yaml as people write it: ranges of nodes, and `access` and `runtime` for all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field

from llmfleet.planner.inventory.model import Access, Node, Runtime, Settings
from llmfleet.planner.inventory.ranges import RANGE, expand, parse_range
from llmfleet.planner.inventory.shapes import Shape

Defaults = TypeVar("Defaults", Access, Runtime)


def _checked_range(text: str) -> str:
    parse_range(text)
    return text


NODE_NAMES = Shape(
    "a name of lower-case letters, digits, '.' and '-', or a range such as a800-[0-3]",
    pattern=rf"^([a-z0-9.-]|{RANGE})+$",
    examples=("head", "a800-[0-1]", "n[01-12]"),
    check=_checked_range,
)
NodeNames = Annotated[str, NODE_NAMES]
NodeHosts = Annotated[
    str,
    Shape(
        "a host name or an IP address, or a range of them such as 10.0.1.[10-11]",
        pattern=rf"^([A-Za-z0-9_.:%]|{RANGE})([A-Za-z0-9_.:%-]|{RANGE})*$",
        examples=("10.0.0.10", "10.0.1.[10-11]", "v100-[0-3].example"),
        check=_checked_range,
    ),
]


class NodeEntry(Node):
    """One machine, or several alike: a range in the name, and one of as many members in the host."""

    name: NodeNames = Field(
        description="What the node is called in plans and commands; a range for several nodes alike."
    )
    host: NodeHosts = Field(
        description="Its address: a name or an IP, with a range of as many members as the name has."
    )
    address: NodeHosts | None = Field(
        default=None,
        examples=["10.0.1.[10-11]"],
        description="How other nodes and the router reach it, where not by `host`: because only ssh_config knows that, "
        "or the nodes share a faster network. A range where the name is one.",
    )


class InventoryFile(Settings):
    """The machines, models and aims of one fleet, as `llmfleet` reads them from inventory.yaml."""

    access: Access = Field(
        default_factory=Access, description="How to reach the nodes. A node's own `access` overrides single keys."
    )
    runtime: Runtime = Field(
        default_factory=Runtime,
        description="What nodes start engines with. A node's own `runtime` overrides single keys.",
    )
    nodes: tuple[NodeEntry, ...] = Field(description="The machines.")


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of `nodes` with its ranges expanded. `index` is its place in the file."""

    index: int
    written: NodeEntry
    names: tuple[str, ...]
    hosts: tuple[str, ...]
    addresses: tuple[str | None, ...]
    access: Access
    runtime: Runtime

    def nodes(self) -> Iterator[Node]:
        shared = {field: getattr(self.written, field) for field in Node.model_fields}
        shared |= {"access": self.access, "runtime": self.runtime}
        for name, host, address in zip(self.names, self.hosts, self.addresses, strict=True):
            own = {"name": name, "host": host, "address": address}
            yield Node.model_construct(_fields_set=set(shared), **(shared | own))


def expanded(written: Mapping[int, NodeEntry], access: Access, runtime: Runtime) -> tuple[Entry, ...]:
    return tuple(
        Entry(
            index=i,
            written=node,
            names=expand(node.name),
            hosts=expand(node.host),
            addresses=expand(node.address) if node.address else (None,) * parse_range(node.name).count,
            access=_over(access, node.access),
            runtime=_over(runtime, node.runtime),
        )
        for i, node in written.items()
    )


def all_nodes(entries: Iterable[Entry]) -> tuple[Node, ...]:
    return tuple(node for entry in entries for node in entry.nodes())


def _over(default: Defaults, own: Defaults) -> Defaults:
    """The file's values, with the keys that the node sets itself; of `env` and `versions` the single entries."""
    changed = {key: _merged(getattr(default, key), getattr(own, key)) for key in own.model_fields_set}
    return default.model_copy(update=changed) if changed else default


def _merged(default: Any, own: Any) -> Any:
    return default | own if isinstance(own, dict) else own
