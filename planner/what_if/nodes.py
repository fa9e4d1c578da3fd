"""Terms about machines: more of a kind, fewer of it, one that is gone, a GPU that is faulty."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmfleet.planner.candidates.node_classes import NodeClass, node_classes
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.kept import meant
from llmfleet.planner.inventory.model import Inventory, Node, Service
from llmfleet.planner.inventory.ranges import MOST_NODES, expand
from llmfleet.planner.inventory.shapes import shown
from llmfleet.planner.near import nearest

COUNTED = re.compile(r"([+-]) *([0-9]{1,9}) +(?:nodes? +)?(.+)")
NAMED = re.compile(r"- *(node|gpu) +(.+)")
OTHER_KIND = re.compile(r"[0-9]+ *[xX×*] *.+")


class NodeTerms:
    """Classes are those of the inventory that the questions are asked of, whatever earlier terms did to it."""

    def __init__(self, inventory: Inventory, catalog: Catalog) -> None:
        self._catalog = catalog
        self._original = inventory
        self._classes = node_classes(inventory, catalog, {})
        self._of_class = {name: c for c in self._classes for name in c.nodes}

    def applied(self, term: str, inventory: Inventory) -> Inventory:
        if named := NAMED.fullmatch(term):
            rest = named[2].strip()
            return self._without(rest, inventory) if named[1] == "node" else self._faulty(rest, inventory)
        counted = COUNTED.fullmatch(term)
        if not counted:
            raise InputError(
                "expected a count and a kind of node after the sign"
                + (", or what goes: -node NAME, -gpu NODE:I, -service NAME." if term.startswith("-") else ".")
            )
        sign, count, kind = counted[1], int(counted[2]), counted[3].strip()
        if not 1 <= count <= MOST_NODES:
            raise InputError(f"expected 1 to {MOST_NODES:,} nodes, not {count}.")
        return self._more(count, kind, inventory) if sign == "+" else self._fewer(count, kind, inventory)

    def _more(self, count: int, kind: str, inventory: Inventory) -> Inventory:
        like = self._other_kind(kind) if OTHER_KIND.fullmatch(kind) else self._like(kind)
        taken = {n.name for n in (*self._original.nodes, *inventory.nodes)}
        names = _free_names(like.name, count, taken)
        new = [_copy(like, name) for name in names]
        services = tuple(_open_alike(service, like.name, new) for service in inventory.services)
        grown = _with_nodes(inventory, (*inventory.nodes, *new))
        return grown.model_copy(update={"services": services})

    def _like(self, kind: str) -> Node:
        return self._original.node(self._class(kind).nodes[-1])

    def _other_kind(self, gpus: str) -> Node:
        """A node with nothing said of it but its GPUs. Its links are the GPU's usual ones."""
        group = parse_gpus(gpus)
        gpu = self._catalog.gpu(group.name)
        name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
        return Node(name=f"{name}-0", host=name, gpus=str(group))

    def _fewer(self, count: int, kind: str, inventory: Inventory) -> Inventory:
        found = self._class(kind)
        there = {n.name for n in inventory.nodes}
        members = [name for name in found.nodes if name in there]
        if count > len(members):
            raise InputError(f"{found.name} has {len(members)} node{'s' * (len(members) != 1)}.")
        return _without_nodes(inventory, set(members[len(members) - count :]))

    def _class(self, kind: str) -> NodeClass:
        """By its name, one of its nodes, or its GPU's name or alias."""
        for c in self._classes:
            if c.name == kind:
                return c
        if kind in self._of_class:
            return self._of_class[kind]
        alike = [c for c in self._classes if c.gpu.name == self._gpu_name(kind)]
        if len(alike) == 1:
            return alike[0]
        known = [c.name for c in self._classes]
        if alike:
            raise InputError(f"{shown(kind)} are several kinds of node: {', '.join(c.name for c in alike)}.")
        near = nearest(kind, [*known, *self._of_class, *{c.gpu.name for c in self._classes}])
        other = f"Another kind of node: 8 x {self._gpu_name(kind)}." if self._gpu_name(kind) else ""
        raise InputError(
            f"{shown(kind)} is no kind of node of this inventory: {', '.join(known) or 'it has no GPUs'}.",
            hint=other or (f"Nearest: {', '.join(near)}." if near else ""),
        )

    def _gpu_name(self, name: str) -> str:
        try:
            return self._catalog.gpu(name).name
        except UnknownNameError:
            return ""

    def _without(self, names: str, inventory: Inventory) -> Inventory:
        return _without_nodes(inventory, {self._node(name, inventory).name for name in expand(names)})

    def _faulty(self, text: str, inventory: Inventory) -> Inventory:
        names, colon, indices = text.partition(":")
        numbers = re.findall(r"[0-9]{1,4}", indices)
        if not colon or not numbers or re.sub(r"[0-9, ]", "", indices):
            raise InputError("expected a node and GPU numbers such as a800-0:3 or a800-0:0,1.")
        broken = {int(n) for n in numbers}
        nodes = [self._node(name, inventory) for name in expand(names.strip())]
        for node in nodes:
            count = parse_gpus(node.gpus).count if node.gpus else 0
            if max(broken) >= count:
                has = f"its GPUs are 0 to {count - 1}" if count else "it has no GPUs"
                raise InputError(f"{node.name} has no GPU {max(broken)}: {has}.")
        hit = {n.name: n.model_copy(update={"faulty": tuple(sorted({*n.faulty, *broken}))}) for n in nodes}
        return _with_nodes(inventory, (hit.get(n.name, n) for n in inventory.nodes))

    def _node(self, name: str, inventory: Inventory) -> Node:
        found = next((n for n in inventory.nodes if n.name == name), None)
        if found is None:
            near = nearest(name, [n.name for n in inventory.nodes][:500])
            kind = next((c for c in self._classes if c.name == name), None)
            hint = f'That is a kind of node: "-{len(kind.nodes)} {name}" takes all of them.' if kind else ""
            raise InputError(
                f"there is no node {shown(name)}.", hint=hint or (f"Nearest: {', '.join(near)}." if near else "")
            )
        return found


def _copy(like: Node, name: str) -> Node:
    return like.model_copy(update={"name": name, "host": name, "faulty": ()})


def _open_alike(service: Service, like: str, new: Iterable[Node]) -> Service:
    """A service may use new nodes where it may use those that they are like, whatever they are called."""
    changed = {}
    for key, patterns in (("nodes", service.nodes), ("avoid", service.avoid)):
        means = meant(patterns)
        if means(like):
            changed[key] = (*patterns, *(n.name for n in new if not means(n.name)))
    return service.model_copy(update=changed) if changed else service


def _free_names(like: str, count: int, taken: set[str]) -> Iterator[str]:
    """h20-2, h20-3 after h20-1: behind the highest number that is or was in use."""
    match = re.fullmatch(r"(.*?)([0-9]+)", like)
    stem, width = (match[1], len(match[2]) if match[2].startswith("0") else 0) if match else (f"{like}-", 0)
    used = [int(n) for name in taken if name.startswith(stem) and (n := name[len(stem) :]).isdigit()]
    first = max(used, default=-1) + 1
    return (f"{stem}{str(n).zfill(width)}" for n in range(first, first + count))


def _with_nodes(inventory: Inventory, nodes: Iterable[Node]) -> Inventory:
    """A copy: a cached property of the old one must not go with it."""
    values = {name: getattr(inventory, name) for name in Inventory.model_fields} | {"nodes": tuple(nodes)}
    return Inventory.model_construct(**values)


def _without_nodes(inventory: Inventory, gone: set[str]) -> Inventory:
    changed = _with_nodes(inventory, (n for n in inventory.nodes if n.name not in gone))
    services = tuple(_unpinned(service, gone) for service in inventory.services)
    router = inventory.router
    if gone.intersection((router.node, *router.also)):
        left = {"node": None if router.node in gone else router.node}
        router = router.model_copy(update={**left, "also": tuple(n for n in router.also if n not in gone)})
    return changed.model_copy(update={"services": services, "router": router})


def _unpinned(service: Service, gone: set[str]) -> Service:
    """Without the instances that are fixed to nodes that are gone."""
    left = [p.model_copy(update={"each": tuple(n for n in p.each if n not in gone)}) for p in service.placement]
    kept = tuple(p for p in left if gone.isdisjoint(p.nodes) and (p.nodes or p.each))
    if service.placement and not kept:
        raise InputError(f"the inventory fixes {service.name} to what is gone, and to nothing else.")
    return service if kept == service.placement else service.model_copy(update={"placement": kept})
