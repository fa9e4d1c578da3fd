"""One port an instance on its first node's address. Nodes may share an address: then they share its ports too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmfleet.planner.errors import PlanError
from llmfleet.planner.inventory.model import Node

HIGHEST = 65_535


def address_of(node: Node) -> str:
    """How other nodes reach it."""
    return node.address or node.host


class Ports:
    """Counts upward from `first` on each address and steps over what is `reserved` there."""

    def __init__(self, first: int, reserved: Mapping[str, Iterable[int]]) -> None:
        self._first = first
        self._next: dict[str, int] = {}
        self._reserved = {address: frozenset(ports) for address, ports in reserved.items()}

    def take(self, address: str) -> int:
        """Raises PlanError when an address has no port left."""
        port = self._next.get(address, self._first)
        while port in self._reserved.get(address, frozenset()):
            port += 1
        if port > HIGHEST:
            raise PlanError(f"{address} has no port left above {self._first}", hint="engine_port: a lower number")
        self._next[address] = port + 1
        return port
