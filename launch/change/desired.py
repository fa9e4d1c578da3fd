"""Which processes should run where, from the plan, the nodes that take part and what is drained. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.commands.ray import Managed, gpu_resources, in_ray, ray_head_process, ray_worker_process
from llmfleet.launch.commands.vllm import rank_name, rank_process
from llmfleet.launch.engine_key import key_path
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.router.names import served_names
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance, Plan

MODELS = "{models}"
STOP_GRACE_S = 30.0  # an engine that is told to stop has finished its requests or never will


def with_interface(node: Node, facts: NodeFacts | None) -> Node:
    """The node with the interface of its address, where the inventory names none: NCCL's own guess may be a bridge."""
    found = facts.interface if facts else None
    if node.runtime.interface is not None or found in (None, "lo"):
        return node
    return node.model_copy(update={"runtime": node.runtime.model_copy(update={"interface": found})})


def active_instances(plan: Plan, nodes: Iterable[str]) -> tuple[Instance, ...]:
    """Instances all of whose nodes take part."""
    present = set(nodes)
    return tuple(i for i in plan.instances if present.issuperset(i.nodes))


def weights_path(instance: Instance, folder: NodeFolder) -> str:
    """The weights' path on a node: as planned, or in our own folder where they are copied."""
    return instance.weights_path.replace(MODELS, folder.models)


def spanning_gpus(instances: Iterable[Instance]) -> Mapping[str, tuple[int, ...]]:
    """GPUs that Ray must manage on each node: those of instances that it carries over several nodes, and no other."""
    gpus: dict[str, set[int]] = {}
    for instance in instances:
        if in_ray(instance):
            for node, indices in instance.gpus.items():
                gpus.setdefault(node, set()).update(indices)
    return {node: tuple(sorted(indices)) for node, indices in gpus.items()}


def ray_processes(
    plan: Plan,
    instances: Iterable[Instance],
    node_of: Mapping[str, Node],
    folders: Mapping[str, NodeFolder],
    addresses: Mapping[str, str],
) -> tuple[Process, ...]:
    """What engines over several nodes run on: Ray's head and workers where it carries one, else the engine's ranks."""
    instances = tuple(instances)
    ranks = _rank_processes(instances, node_of, folders, addresses)
    gpus = spanning_gpus(instances)
    if not gpus:
        return ranks
    head = ray_head_process(node_of[plan.head], address=addresses[plan.head], folder=folders[plan.head])
    workers = (
        ray_worker_process(
            node_of[name],
            address=addresses[name],
            folder=folders[name],
            head_address=addresses[plan.head],
            managed=Managed(
                indices,
                next(i.accelerator for i in instances if name in i.gpus and in_ray(i)),
                resources=gpu_resources(node_of[name], indices),
            ),
        )
        for name, indices in sorted(gpus.items())
    )
    return (head, *workers, *ranks)


def _rank_processes(
    instances: Iterable[Instance],
    node_of: Mapping[str, Node],
    folders: Mapping[str, NodeFolder],
    addresses: Mapping[str, str],
) -> tuple[Process, ...]:
    return tuple(
        rank_process(
            replace(i, weights_path=weights_path(i, folders[node])),
            rank,
            node_of[node],
            folder=folders[node],
            addresses={n: addresses[n] for n in i.nodes},
        )
        for i in instances
        if i.spans_nodes and not in_ray(i)
        for rank, node in enumerate(i.nodes)
        if rank
    )


def member_names(instances: Iterable[Instance], head: str) -> set[tuple[str, str]]:
    """Node and name of what the instances over several nodes run on."""
    instances = tuple(instances)
    ray = {(node, "ray-worker") for i in instances if in_ray(i) for node in i.nodes}
    ranks = {
        (node, rank_name(i, rank))
        for i in instances
        if i.spans_nodes and not in_ray(i)
        for rank, node in enumerate(i.nodes)
        if rank
    }
    return ray | ranks | ({(head, "ray-head")} if ray else set())


def engine_processes(
    plan: Plan,
    instances: Iterable[Instance],
    node_of: Mapping[str, Node],
    folders: Mapping[str, NodeFolder],
    addresses: Mapping[str, str],
    cores: Mapping[str, int],
    key: str | None = None,
) -> tuple[Process, ...]:
    """One process an instance, on its first node. `key`: that engines are to want."""
    return tuple(
        engine_process(
            replace(i, weights_path=weights_path(i, folders[i.nodes[0]])),
            node_of[i.nodes[0]],
            folder=folders[i.nodes[0]],
            addresses={n: addresses[n] for n in i.nodes},
            ray_address=addresses[plan.head],
            names=served_names(plan, i),
            cores=cores.get(i.nodes[0]),
            key_file=key_path(folders[i.nodes[0]], key) if key else None,
        )
        for i in instances
    )
