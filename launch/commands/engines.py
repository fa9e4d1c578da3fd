"""The process that serves an instance, on its first node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmfleet.launch.commands.container import in_container, inside
from llmfleet.launch.commands.llamacpp import llamacpp_image_process, llamacpp_process
from llmfleet.launch.commands.vllm import has, vllm_process
from llmfleet.launch.engine_key import VARIABLES
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance


def engine_process(
    instance: Instance, node: Node, *, folder: NodeFolder, addresses: Mapping[str, str], ray_address: str,
    names: Sequence[str], cores: int | None = None, key_file: str | None = None,
) -> Process:
    """`instance.weights_path` is the path on the node. `addresses`: of the instance's nodes, as nodes reach each other;
    `ray_address`: of the Ray head. `names`: model names it answers to. `cores`: of the node, where they are known.
    `key_file`: on the node, with the key that the engine is to want.
    """
    if node.runtime.kind == "process":
        made = _process(instance, node, folder, addresses, ray_address, names, cores)
        return _with_key(made, instance, key_file)
    made = _with_key(_inside(instance, node, folder, addresses, names, cores), instance, key_file)
    return in_container(instance, node, made, folder)


def _with_key(process: Process, instance: Instance, key_file: str | None) -> Process:
    return replace(process, env_files={VARIABLES[instance.engine]: key_file}) if key_file else process


def _process(
    instance: Instance, node: Node, folder: NodeFolder, addresses: Mapping[str, str], ray_address: str,
    names: Sequence[str], cores: int | None,
) -> Process:
    if instance.engine == "llama.cpp":
        return llamacpp_process(instance, node, folder=folder, address=addresses[node.name], names=names, cores=cores)
    return vllm_process(
        instance, node, folder=folder, addresses=addresses, ray_address=ray_address, names=names, cores=cores
    )


def _inside(
    instance: Instance, node: Node, folder: NodeFolder, addresses: Mapping[str, str], names: Sequence[str],
    cores: int | None,
) -> Process:
    """What runs in a container, on one node: instances over several nodes are made of processes."""
    if instance.spans_nodes:
        raise InputError(
            f"{instance.id} spans nodes, which containers cannot",
            hint="Set `runtime: {kind: process}` on its nodes, or place it inside one node.",
            node=node.name,
        )
    address = addresses[node.name]
    if instance.engine == "llama.cpp":
        return llamacpp_image_process(instance, node, address=address, names=names, cores=cores)
    return vllm_process(
        instance, inside(node), folder=folder, addresses=addresses, ray_address="", names=names, cores=cores
    )


def refuses_when_full(instance: Instance) -> bool:
    """Whether the engine answers 503 beyond the requests it was planned for. Others queue whatever comes."""
    return instance.engine == "vllm" and has(instance, "--max-num-queued-reqs")
