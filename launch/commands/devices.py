"""Which GPUs a process may see, and how many threads it may run, as environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Node

VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES", "ascend": "ASCEND_RT_VISIBLE_DEVICES"}


def vendor(node: Node) -> str:
    """Of the node's accelerators. A GPU that only the user's own catalogue knows counts as NVIDIA's."""
    if node.gpus is None:
        return "cpu"
    try:
        return catalog().gpu(parse_gpus(node.gpus).name).vendor
    except UnknownNameError:
        return "nvidia"


def gpu_env(node: Node, gpus: Sequence[int]) -> Mapping[str, str]:
    """Indices as the driver counts them, whatever order CUDA would prefer."""
    name = VISIBLE.get(vendor(node))
    if name is None:
        return {}
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if name == "CUDA_VISIBLE_DEVICES" else {}
    return {name: ",".join(str(g) for g in gpus), **order}


def threads(node: Node, slots: Sequence[int], cores: int | None) -> int | None:
    """Threads of an instance on CPU slots: its share of the node's cores. None where the cores are not known."""
    if cores is None or node.gpus is None:
        return None
    return max(1, cores * len(slots) // parse_gpus(node.gpus).count)


def interface_env(node: Node) -> Mapping[str, str]:
    """NCCL and gloo on the interface of the node's address: their own guess may be a container engine's bridge."""
    if node.runtime.interface is None:
        return {}
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME")
    return dict.fromkeys(names, node.runtime.interface)
