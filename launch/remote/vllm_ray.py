#!/usr/bin/env python3
"""vLLM's API server for an instance that spans nodes, on exactly the planned nodes of the Ray cluster, in stage order.

    vllm_ray.py a800-0=4,a800-1=4 --model … --distributed-executor-backend ray …

The first argument names the nodes, each with its number of GPUs, first stage first. RAY_ADDRESS says where the cluster
is. The placement group lives as long as this process, so every restart makes a new one.
"""

import os
import runpy
import sys
import time
from typing import Any, Dict, List, Tuple

NODE_RESOURCE = "llmfleet_node_"  # each node brings one of its own
PIN = 0.001
WAIT_S = 300.0
SERVER = "vllm.entrypoints.openai.api_server"


def parse_stages(text: str) -> List[Tuple[str, int]]:
    return [(name, int(count)) for name, count in (part.rsplit("=", 1) for part in text.split(","))]


def bundles(stages: List[Tuple[str, int]], device: str) -> List[Dict[str, float]]:
    """One a rank, in rank order."""
    return [{device: 1.0, NODE_RESOURCE + name: PIN} for name, count in stages for _ in range(count)]


def shortage(stages: List[Tuple[str, int]], device: str, free: List[Dict[str, float]]) -> str:
    """What the cluster lacks, node by node. `free`: resources that are left on each living node."""
    lacks = []
    for name, count in stages:
        node = next((f for f in free if f.get(NODE_RESOURCE + name)), None)
        if node is None:
            lacks.append("%s has not joined" % name)
        elif node.get(device, 0.0) < count:
            lacks.append("%s has %g of %d %s free" % (name, node.get(device, 0.0), count, device))
    return ", ".join(lacks) or "the nodes have what is needed, but Ray has not handed it out"


def reserve(stages: List[Tuple[str, int]], device: str) -> Any:
    """The placement group, once Ray has made it. Ends this process when that takes too long."""
    import ray
    from ray.util.placement_group import placement_group

    group = placement_group(bundles(stages, device), strategy="PACK")
    deadline = time.monotonic() + WAIT_S
    while not group.wait(timeout_seconds=10):
        missing = shortage(stages, device, list(ray._private.state.available_resources_per_node().values()))
        if time.monotonic() > deadline:
            sys.exit("error: no room in the Ray cluster after %g s: %s" % (WAIT_S, missing))
        print("waiting for the Ray cluster: %s" % missing, flush=True)
    return group


def hand_over(group: Any) -> None:
    """Has vLLM use the group, with ranks in the order of its bundles."""
    from vllm.engine.arg_utils import EngineArgs

    original = EngineArgs.create_engine_config

    def with_group(self: Any, *arguments: Any, **settings: Any) -> Any:
        config = original(self, *arguments, **settings)
        config.parallel_config.placement_group = group
        return config

    EngineArgs.create_engine_config = with_group


def keep_draining() -> None:
    """For the engine core, which vLLM spawns and which imports this file anew: on SIGTERM it lets requests finish,
    unless ray.init puts its own handler there, which ends it at once.
    """
    import ray._private.utils

    ray._private.utils.set_sigterm_handler = lambda _: None


def main() -> None:
    stages = parse_stages(sys.argv.pop(1))
    os.environ["VLLM_RAY_BUNDLE_INDICES"] = ",".join(str(i) for i in range(sum(count for _, count in stages)))
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a fork would inherit this connection to Ray, and break it
    import ray
    from vllm.platforms import current_platform

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    hand_over(reserve(stages, current_platform.ray_device_key))
    runpy.run_module(SERVER, run_name="__main__")


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    keep_draining()
