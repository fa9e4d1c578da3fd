"""Ray, for instances that span nodes: one cluster a fleet, its head on the fleet's head node."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmfleet.launch.commands.addresses import host_port
from llmfleet.launch.commands.devices import gpu_env, interface_env, vendor
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.scratch import scratch_env, scratch_folder
from llmfleet.launch.transport.base import Argv
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

PORT = 6379
DASHBOARD_PORT = 6389  # on loopback; what is left of the dashboard without its pages
NODE_RESOURCE = "llmfleet_node_"  # one of it on each node: it pins stages, and shows who has joined
GPU_RESOURCE = "llmfleet_gpu_"  # as many of it as GPUs of that kind: what else runs in the cluster can ask for a kind
OBJECT_STORE_BYTES = 200_000_000  # vLLM sends its data past Ray's object store
STOP_GRACE_S = 20.0
# Everywhere: TCP_USER_TIMEOUT of Ray's connections, two minutes by default. An actor whose stream to a vanished node
# ends answers nobody so long: its event loop waits for the node's word (WaitAllObjectsReported of Ray 2.60). And again,
# for a connection that cannot be made, with the next such stream: Serve has to bear with several of them.
SILENT_PEER = {"RAY_grpc_client_keepalive_timeout_ms": "5000"}
# The head gives up a silent node after 4 × (1 + 3) s at most, not Ray's 5 × (3 + 10): what waits for it waits so long.
SILENT_NODE = {
    **SILENT_PEER,
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
# Every port is known beforehand, so that firewalls can be set. Head and worker differ, since they may share a machine.
HEAD_PORTS = {
    "--node-manager-port": 6380,
    "--object-manager-port": 6381,
    "--metrics-export-port": 6382,
    "--runtime-env-agent-port": 6383,
    "--dashboard-agent-grpc-port": 6384,
    "--dashboard-agent-listen-port": 6385,
    "--min-worker-port": 10100,
    "--max-worker-port": 10399,
}
WORKER_PORTS = {flag: port + (300 if "worker" in flag else 10) for flag, port in HEAD_PORTS.items()}


@dataclass(frozen=True, slots=True)
class Managed:
    """What Ray may give out on a node: these GPUs, so many CPUs, these resources; and `env` for all that runs there."""

    gpus: Sequence[int] = ()
    accelerator: str = "gpu"
    cpus: int = 1
    resources: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def gpu_resources(node: Node, indices: Sequence[int]) -> dict[str, int]:
    return {f"{GPU_RESOURCE}{parse_gpus(node.gpus).name}": len(indices)} if node.gpus else {}


def ray_head_process(node: Node, *, address: str, folder: NodeFolder, managed: Managed = Managed()) -> Process:
    """`managed`: nothing but a CPU for a head that only coordinates."""
    ports = {"--port": PORT, "--dashboard-port": DASHBOARD_PORT, **HEAD_PORTS}
    own = ("--head", "--include-dashboard=false", *_words(ports))
    return _start(node, "ray-head", address, folder, managed, own, {**ray_address_env(address), **SILENT_NODE})


def ray_worker_process(
    node: Node, *, address: str, folder: NodeFolder, head_address: str, managed: Managed
) -> Process:
    own = ("--address", host_port(head_address, PORT), *_words(WORKER_PORTS))
    return _start(node, "ray-worker", address, folder, managed, own, ray_address_env(head_address))


def in_ray(instance: Instance) -> bool:
    """Whether it runs in the Ray cluster."""
    return instance.spans_nodes and instance.multi_node == "ray"


def ray_status_command(node: Node, address: str) -> Argv:
    return (node.runtime.python, "-m", "ray.scripts.scripts", "status", "--address", address)


def parse_ray_status(text: str) -> tuple[str, ...]:
    """Names of the fleet's nodes that have joined, from the resources that `ray status` lists."""
    return tuple(sorted(set(re.findall(rf"/[0-9.]+ {NODE_RESOURCE}(\S+)", text))))


def ray_address_env(address: str) -> dict[str, str]:
    return {"RAY_ADDRESS": host_port(address, PORT)}


def _start(
    node: Node, kind: str, address: str, folder: NodeFolder, managed: Managed, own: tuple[str, ...],
    env: Mapping[str, str],
) -> Process:
    gpus = managed.gpus
    npu = managed.accelerator == "gpu" and vendor(node) == "ascend"
    resources = {f"{NODE_RESOURCE}{node.name}": 1, **({"NPU": len(gpus)} if npu else {}), **managed.resources}
    argv = (
        *(node.runtime.python, "-m", "ray.scripts.scripts", "start", "--block"),
        *own,
        *("--node-ip-address", address),
        *("--num-cpus", str(managed.cpus)),
        *("--num-gpus", "0" if npu else str(len(gpus))),
        *("--resources", json.dumps(resources)),
        *("--object-store-memory", str(OBJECT_STORE_BYTES)),
        *("--temp-dir", scratch_folder(folder)),
        "--disable-usage-stats",
    )
    return Process(
        name=kind,
        node=node.name,
        kind="ray-head" if kind == "ray-head" else "ray-worker",
        argv=argv,
        env={**scratch_env(folder), **_env(node, address, managed), **env, **managed.env, **node.runtime.env},
        stop_grace_s=STOP_GRACE_S,
    )


def _env(node: Node, address: str, managed: Managed) -> dict[str, str]:
    """vLLM's workers are children of this process and take these from it."""
    return {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # engines are stopped before Ray is
        **SILENT_PEER,
        "VLLM_HOST_IP": address,
        **interface_env(node),
        **(gpu_env(node, managed.gpus) if managed.gpus and managed.accelerator == "gpu" else {}),
    }


def _words(ports: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(word for flag, port in ports.items() for word in (flag, str(port)))
