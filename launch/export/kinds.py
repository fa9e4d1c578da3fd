"""Instances that one workload can stand for: alike in everything but their place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from llmfleet.planner.difference import SAID
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.plan import Instance, Plan

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
LONGEST = 63  # of a DNS label, RFC 1123
ROOM = 12  # for what Kubernetes appends to a workload's name: -0, and a revision's hash
OF_ONE = SAID | {"id", "nodes", "gpus", "port"}  # what may differ between instances of a kind


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` is a DNS label. Member i of the workload is `instances[i]`; `node` is one that carries such an instance,
    `node_class` what nodes alike in GPU, link and runtime are called."""

    name: str
    instances: tuple[Instance, ...]
    node: Node
    node_class: str

    @property
    def one(self) -> Instance:
        return self.instances[0]

    def host(self, index: int) -> str:
        """DNS name of a member, within its namespace. Of a group over several nodes: of its leader."""
        return f"{self.name}-{index}.{self.name}"


@dataclass(frozen=True, slots=True)
class Export:
    """`files`: text by path. `lost`: what the plan promises and that world does not keep. `before`: what has to be done
    by hand before the files are used. `then`: commands that use them."""

    files: Mapping[str, str]
    lost: tuple[str, ...]
    before: tuple[str, ...]
    then: tuple[str, ...] = ()


def kinds_of(inventory: Inventory, plan: Plan) -> tuple[Kind, ...]:
    """In the plan's order. Raises InputError for shared GPUs, and with every name that Kubernetes does not take."""
    _whole_gpus(plan)
    nodes = {node.name: node for node in inventory.nodes}
    classes = node_class_names(inventory)
    alike: dict[object, list[Instance]] = {}
    for instance in plan.instances:
        _same_class(instance, classes)
        alike.setdefault(_key(instance, classes), []).append(instance)
    names: dict[str, int] = {}
    kinds = []
    for members in alike.values():
        one = members[0]
        name = f"{one.service}-{classes[one.nodes[0]]}"
        names[name] = names.get(name, 0) + 1
        full = name if names[name] == 1 else f"{name}-{names[name]}"
        kinds.append(Kind(full, tuple(members), nodes[one.nodes[0]], classes[one.nodes[0]]))
    check_names([plan.cluster, *(k.name for k in kinds)])
    return tuple(kinds)


def node_class_names(inventory: Inventory) -> Mapping[str, str]:
    """By node: what its like are called, a800 for a800-0 and a800-1. Nodes that differ in more than name are apart."""
    groups: dict[object, list[str]] = {}
    for node in inventory.nodes:
        runtime = node.runtime
        key = (node.gpus, node.link, runtime.image, runtime.kind, tuple(sorted(runtime.versions.items())))
        groups.setdefault(key, []).append(node.name)
    found: dict[str, str] = {}
    for members in groups.values():
        stem = re.sub(r"[-_.]?[0-9]+$", "", members[0])
        shared = len(members) > 1 and all(m.startswith(stem) for m in members) and stem not in found.values()
        found |= dict.fromkeys(members, stem if shared and stem else members[0])
    return found


def _key(instance: Instance, classes: Mapping[str, str]) -> object:
    shape = tuple(len(instance.gpus[n]) for n in instance.nodes)
    same = tuple(str(getattr(instance, f.name)) for f in fields(Instance) if f.name not in OF_ONE)
    return (same, shape, classes[instance.nodes[0]])


def _whole_gpus(plan: Plan) -> None:
    shared = [i.id for i in plan.instances if i.gpu_share < 1]
    if shared:
        raise InputError(
            f"{', '.join(shared)} share GPUs; Kubernetes and Ray Serve give a pod or replica whole ones",
            hint="llmfleet up runs them; or plan with `policy: {share_gpus: false}`.",
        )


def _same_class(instance: Instance, classes: Mapping[str, str]) -> None:
    if len({classes[n] for n in instance.nodes}) > 1 or len({len(g) for g in instance.gpus.values()}) > 1:
        raise InputError(
            f"{instance.id} spans nodes that are not alike ({', '.join(instance.nodes)}), which a group of pods cannot",
            hint="llmfleet up runs it; or place the service inside one class of node.",
        )


def check_names(names: Sequence[str]) -> None:
    """Raises InputError with every one that is no DNS label."""
    wrong = [f'"{n}" ({why})' for n in dict.fromkeys(names) if (why := _unfit(n))]
    if wrong:
        raise InputError(
            f"names that Kubernetes does not take: {', '.join(wrong)}",
            hint="Names come from cluster, service and node: letters, digits and -, from a letter or digit to one.",
        )


def _unfit(name: str) -> str:
    if len(name) > LONGEST - ROOM:
        return f"{len(name)} characters; {LONGEST - ROOM} leave room for what is appended"
    return "" if LABEL.fullmatch(name) else "no DNS label"
