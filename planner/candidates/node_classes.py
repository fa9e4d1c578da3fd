"""Nodes that are alike, as one thing to decide about: ten thousand nodes are a dozen classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.kept import kept_off
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.plan import EngineName

ENGINES: tuple[EngineName, ...] = ("vllm", "llama.cpp")


@dataclass(frozen=True, slots=True, eq=False)
class NodeClass:
    """`free`: GPU indices that each of its nodes has to give, the same ones on all of them.

    `installed`: engine versions that the nodes have; empty: the planner chooses. `nic_bits_s` None: not known.
    `closed`: services that must not use them.
    """

    name: str
    gpu: Gpu
    free: tuple[int, ...]
    link: str | None
    nic_bits_s: float | None
    installed: Mapping[str, str]
    price: float | None
    nodes: tuple[str, ...]
    max_weights: float = 1.0
    closed: frozenset[str] = frozenset()

    @property
    def island(self) -> int:
        """GPUs of a node that reach each other at the link's full speed."""
        if self.gpu.vendor == "cpu" or self.link in ("pcie", "none") or self.gpu.link_group <= 1:
            return max(self.free, default=0) + 1  # all of them
        return self.gpu.link_group

    @property
    def weights_gib(self) -> float:
        """Most that weights may take of one GPU."""
        return self.max_weights * self.gpu.memory_mib / 1024

    @property
    def linked(self) -> bool:
        return self.gpu.link_gbs > 0 and self.link in (None, "nvlink")


def node_classes(inventory: Inventory, catalog: Catalog, taken: Mapping[str, frozenset[int]]) -> tuple[NodeClass, ...]:
    """Classes of the nodes that have free GPUs, in the order of the file. `taken`: GPUs already given away, by node.

    Raises UnknownNameError for a GPU that the catalogue lacks.
    """
    groups: dict[tuple[object, ...], list[Node]] = {}
    closed = _closed(inventory)
    for node in inventory.nodes:
        if node.gpus and not node.exclude:
            alike = (closed.get(node.name), *_alike(node, taken.get(node.name, frozenset())))
            groups.setdefault(alike, []).append(node)
    made = [
        _class(nodes, catalog, taken.get(nodes[0].name, frozenset()), closed.get(nodes[0].name, frozenset()))
        for nodes in groups.values()
    ]
    named = _distinct_names([c.nodes for c in made])
    return tuple(
        replace(c, name=name)
        for name, c in zip(named, made, strict=True)
        if c.free
    )


def _closed(inventory: Inventory) -> dict[str, frozenset[str]]:
    """By node the services that must not use it, where there are any."""
    names = [node.name for node in inventory.nodes]
    found: dict[str, frozenset[str]] = {}
    for service in inventory.services:
        for name in kept_off(service, names):
            found[name] = found.get(name, frozenset()) | {service.name}
    return found


def usable(node: Node) -> tuple[int, ...]:
    """GPU indices of a node that may be used."""
    count = parse_gpus(node.gpus).count if node.gpus and not node.exclude else 0
    return tuple(i for i in range(count) if i not in node.faulty)


def _alike(node: Node, taken: frozenset[int]) -> tuple[object, ...]:
    runtime = node.runtime
    versions = tuple(sorted(runtime.versions.items()))
    installed = (versions, runtime.kind, runtime.image, runtime.python)
    return (node.gpus, node.link, node.nic, installed, node.price, node.faulty, node.max_weights, taken)


def _class(nodes: list[Node], catalog: Catalog, taken: frozenset[int], closed: frozenset[str]) -> NodeClass:
    first = nodes[0]
    gpus = parse_gpus(first.gpus or "")
    return NodeClass(
        name="",
        gpu=_gpu(catalog, gpus.name),
        free=tuple(i for i in usable(first) if i not in taken),
        link=first.link,
        nic_bits_s=first.nic,
        installed={name: version for name, version in first.runtime.versions.items() if name in ENGINES},
        price=first.price,
        nodes=tuple(node.name for node in nodes),
        max_weights=first.max_weights,
        closed=closed,
    )


@lru_cache(maxsize=256)
def _gpu(catalog: Catalog, name: str) -> Gpu:
    return catalog.gpu(name)


def _distinct_names(groups: Iterable[tuple[str, ...]]) -> list[str]:
    """What a class's nodes are called in common: a800 for a800-0 and a800-1. A repeated one: the first node's."""
    names: list[str] = []
    for nodes in groups:
        stem = re.sub(r"[-_.]?[0-9]+$", "", nodes[0]) or nodes[0]
        alike = len(nodes) > 1 and all(node.startswith(stem) for node in nodes)
        name = stem if alike and stem not in names else nodes[0]
        names.append(name if name not in names else f"{name}+{len(names)}")
    return names
