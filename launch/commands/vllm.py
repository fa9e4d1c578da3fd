"""vLLM's command line. Flags were read in the sources of 0.19.1 and 0.32.0; `FIRST_WITH` says where they differ.

An instance over several nodes runs in the Ray cluster, or as vLLM's own processes (`multi_node`): then the first node's
has the server and the others have the workers of their rank, which meet at an address and port of the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain

from llmfleet.launch.commands.addresses import host_port, url
from llmfleet.launch.commands.devices import gpu_env, interface_env, threads, vendor
from llmfleet.launch.commands.ray import in_ray, ray_address_env
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.scratch import scratch_env
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance
from llmfleet.planner.ports import HIGHEST as HIGHEST_PORT

SERVER = "vllm.entrypoints.openai.api_server"
SPANNING_SERVER = "vllm_ray.py"
RANK = "vllm_rank.py"
MASTER_OFFSET, LIFELINE_OFFSET = 1000, 2000  # from an instance's port to those where its ranks meet and hold on
MIDDLEWARE = "hold_headers.HoldHeaders"
SHUTDOWN_TIMEOUT_S = 25  # running requests may finish; the supervisor kills after STOP_GRACE_S
STOP_GRACE_S = 30.0
HANG_AFTER_S = {"gpu": 30.0, "cpu": 90.0}  # a CPU engine shares its cores with its own HTTP server
FIRST_WITH = {
    "--max-num-queued-reqs": (0, 29),  # vllm-project/vllm#49445
    "--kv-cache-memory-bytes on CPU": (0, 32),  # before: VLLM_CPU_KVCACHE_SPACE, in whole GiB
}
# Without a figure, a CPU engine demands its share of the whole machine's memory, also where it has no KV cache.
UNUSED_KV = {"gpu": None, "cpu": 1 << 20}
OF_THE_SERVER = {
    "--distributed-executor-backend",
    "--max-num-queued-reqs",
    "--shutdown-timeout",
    "--middleware",
    "--disable-access-log-for-endpoints",
}  # not of the engine, or chosen by who starts it
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def vllm_process(
    instance: Instance, node: Node, *, folder: NodeFolder, addresses: Mapping[str, str], ray_address: str,
    names: Sequence[str], cores: int | None = None,
) -> Process:
    """See engine_process."""
    address = addresses[node.name]
    return Process(
        name=instance.id,
        node=node.name,
        kind="engine",
        argv=(
            *_server(instance, node, folder, addresses),
            *("--model", instance.weights_path, "--served-model-name", *names),
            *_words(_server_flags(instance, address) | _engine_flags(instance, node) | _ranks(instance, addresses, 0)),
            *(("--enforce-eager",) if instance.enforce_eager else ()),
        ),
        env={**_env(instance, node, folder, address, ray_address, cores), **node.runtime.env},
        health_url=url(address, instance.port, "/health"),
        stop_grace_s=STOP_GRACE_S,
        hang_after_s=HANG_AFTER_S[instance.accelerator],
    )


def engine_arguments(instance: Instance, node: Node) -> dict[str, object]:
    """The same flags as arguments of vLLM's AsyncEngineArgs, for programs that start the engine themselves."""
    flags = {name: value for name, value in _engine_flags(instance, node).items() if name not in OF_THE_SERVER}
    given = {name.removeprefix("--").replace("-", "_"): value for name, value in flags.items() if value is not None}
    return {**given, **({"enforce_eager": True} if instance.enforce_eager else {})}


def rank_process(
    instance: Instance, rank: int, node: Node, *, folder: NodeFolder, addresses: Mapping[str, str]
) -> Process:
    """The workers of an instance on a node that is not its first. `instance.weights_path` is the path there."""
    flags = _engine_flags(instance, node) | _ranks(instance, addresses, rank)
    return Process(
        name=rank_name(instance, rank),
        node=node.name,
        kind="rank",
        argv=(
            *(node.runtime.python, *_rank_script(instance, folder, addresses), "--model", instance.weights_path),
            *_words(flags),
            *(("--enforce-eager",) if instance.enforce_eager else ()),
        ),
        env={**_env(instance, node, folder, addresses[node.name], "", None), **node.runtime.env},
        stop_grace_s=STOP_GRACE_S,
    )


def rank_name(instance: Instance, rank: int) -> str:
    return f"{instance.id}-rank{rank}"


def rank_ports(instance: Instance) -> tuple[int, int]:
    """On the first node: where ranks meet, and where they hold on to each other."""
    sign = 1 if instance.port + LIFELINE_OFFSET <= HIGHEST_PORT else -1
    return instance.port + sign * MASTER_OFFSET, instance.port + sign * LIFELINE_OFFSET


def _rank_script(instance: Instance, folder: NodeFolder, addresses: Mapping[str, str]) -> tuple[str, ...]:
    first, *others = (addresses[n] for n in instance.nodes)
    return folder.script(RANK), host_port(first, rank_ports(instance)[1]), ",".join(others)


def _ranks(instance: Instance, addresses: Mapping[str, str], rank: int) -> dict[str, object]:
    if not instance.spans_nodes or instance.multi_node == "ray":
        return {}
    return {
        "--nnodes": len(instance.nodes),
        "--node-rank": rank,
        "--master-addr": addresses[instance.nodes[0]],
        "--master-port": rank_ports(instance)[0],
    }


def _server(
    instance: Instance, node: Node, folder: NodeFolder, addresses: Mapping[str, str]
) -> tuple[str, ...]:
    if not instance.spans_nodes:
        return (node.runtime.python, "-m", SERVER)
    if not in_ray(instance):
        return (node.runtime.python, *_rank_script(instance, folder, addresses))
    stages = ",".join(f"{name}={len(instance.gpus[name])}" for name in instance.nodes)
    return (node.runtime.python, folder.script(SPANNING_SERVER), stages)


def _server_flags(instance: Instance, address: str) -> dict[str, object]:
    return {"--host": address, "--port": instance.port}


def _engine_flags(instance: Instance, node: Node) -> dict[str, object]:
    """The same on every node of an instance."""
    return {
        "--tensor-parallel-size": instance.tp,
        "--pipeline-parallel-size": instance.pp if instance.pp > 1 else None,
        "--distributed-executor-backend": instance.multi_node if instance.spans_nodes else None,
        "--runner": "pooling" if instance.task != "generate" else None,
        "--dtype": DTYPES.get(instance.dtype, instance.dtype),
        "--quantization": _quantization(instance, node),
        "--kv-cache-dtype": instance.kv_cache_dtype if instance.kv_cache_dtype != "auto" else None,
        "--max-model-len": instance.max_model_len,
        "--max-num-seqs": instance.max_num_seqs,
        "--max-num-batched-tokens": instance.max_num_batched_tokens,
        "--long-prefill-token-threshold": instance.long_prefill_token_threshold or None,
        "--kv-cache-memory-bytes": instance.kv_cache_memory_bytes or UNUSED_KV[instance.accelerator],
        "--gpu-memory-utilization": instance.gpu_memory_utilization,
        "--max-num-queued-reqs": instance.max_concurrency if has(instance, "--max-num-queued-reqs") else None,
        "--shutdown-timeout": SHUTDOWN_TIMEOUT_S,
        "--middleware": MIDDLEWARE,
        "--disable-access-log-for-endpoints": "/health,/metrics",
    }


def _words(flags: Mapping[str, object]) -> tuple[str, ...]:
    given = {flag: value for flag, value in flags.items() if value is not None}
    return tuple(chain.from_iterable((flag, str(value)) for flag, value in given.items()))


def _quantization(instance: Instance, node: Node) -> str | None:
    """vLLM reads the method from the checkpoint and picks the best kernel for it; naming one would tie it down."""
    return "ascend" if vendor(node) == "ascend" and instance.quantization == "int8" else None


def _env(
    instance: Instance, node: Node, folder: NodeFolder, address: str, ray_address: str, cores: int | None
) -> dict[str, str]:
    env = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": address,  # its own way to find out asks a server on the internet
        "PYTHONPATH": folder.bin,  # where the middleware lies
        **scratch_env(folder),
        **interface_env(node),
    }
    if instance.pp_partition:
        env["VLLM_PP_LAYER_PARTITION"] = ",".join(str(n) for n in instance.pp_partition)
    if instance.accelerator == "cpu":
        env |= _cpu_env(instance, node, cores)
    if in_ray(instance):
        return {**env, **ray_address_env(ray_address)}
    return {**env, **(gpu_env(node, instance.gpus[node.name]) if instance.accelerator == "gpu" else {})}


def _cpu_env(instance: Instance, node: Node, cores: int | None) -> dict[str, str]:
    slots = instance.gpus[node.name]
    share = threads(node, slots, cores)
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # several instances would bind to the same cores
    if share is not None:
        env["OMP_NUM_THREADS"] = str(max(1, share // len(slots)))  # of each rank
    if not has(instance, "--kv-cache-memory-bytes on CPU"):
        env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, instance.kv_cache_memory_bytes >> 30))
    return env


def has(instance: Instance, feature: str) -> bool:
    release = tuple(int(n) for n in re.findall(r"[0-9]+", instance.engine_version)[:2])
    return release >= FIRST_WITH[feature]
