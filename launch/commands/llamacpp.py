"""llama.cpp's own HTTP server: out of the xllamacpp package of the node's Python, or a llama-server binary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmfleet.launch.commands.addresses import url
from llmfleet.launch.commands.devices import gpu_env, threads
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.scratch import scratch_env
from llmfleet.launch.transport.base import Argv
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

SERVER = "llamacpp_server.py"
IMAGE_SERVER = "/app/llama-server"  # entry point of ghcr.io/ggml-org/llama.cpp:server and server-cuda
DRAIN_S = 25  # running requests may finish; the supervisor kills after STOP_GRACE_S
STOP_GRACE_S = 30.0
HANG_AFTER_S = 60.0


def llamacpp_process(
    instance: Instance, node: Node, *, folder: NodeFolder, address: str, names: Sequence[str], cores: int | None = None
) -> Process:
    """`instance.weights_path` is the GGUF file on the node; a folder with one does where xllamacpp serves it.
    Context is per slot, as planned."""
    binary = node.runtime.llama_server
    share = _threads(instance, node, cores)
    if binary is None:
        argv = _packaged(instance, node.runtime.python, folder.script(SERVER), address, names, share)
    else:
        argv = _binary(instance, node, binary, address, names, share)
    return _process(instance, node, argv, scratch_env(folder), address)


def llamacpp_image_process(
    instance: Instance, node: Node, *, address: str, names: Sequence[str], cores: int | None = None
) -> Process:
    """The same, as llama.cpp's own images have it."""
    share = _threads(instance, node, cores)
    return _process(instance, node, _binary(instance, node, IMAGE_SERVER, address, names, share), {}, address)


def _process(instance: Instance, node: Node, argv: Argv, scratch: Mapping[str, str], address: str) -> Process:
    gpus = gpu_env(node, instance.gpus[node.name]) if instance.accelerator == "gpu" else {}
    return Process(
        name=instance.id,
        node=node.name,
        kind="engine",
        argv=argv,
        env={**scratch, **gpus, **node.runtime.env},
        health_url=url(address, instance.port, "/health"),
        stop_grace_s=STOP_GRACE_S,
        hang_after_s=HANG_AFTER_S,
    )


def _packaged(
    instance: Instance, python: str, script: str, address: str, names: Sequence[str], share: int | None
) -> Argv:
    return (
        python,
        script,
        *("--model", instance.weights_path),
        *("--host", address),
        *("--port", str(instance.port)),
        *("--slots", str(instance.max_num_seqs)),
        *("--context", str(instance.max_model_len)),
        *("--batch", str(instance.max_num_batched_tokens)),
        *("--kv-type", _kv_type(instance)),
        *("--gpu-layers", "0" if instance.accelerator == "cpu" else "all"),
        *("--drain", str(DRAIN_S)),
        *(("--task", instance.task) if instance.task != "generate" else ()),
        *(("--threads", str(share)) if share else ()),
        *(word for name in names for word in ("--name", name)),
    )


def _binary(
    instance: Instance, node: Node, binary: str, address: str, names: Sequence[str], share: int | None
) -> Argv:
    """llama-server's own flags, see remote/llamacpp_server.py for the same in Python."""
    if not instance.weights_path.endswith(".gguf"):
        what = f"{instance.weights_path} is no GGUF file, which llama-server wants"
        raise InputError(what, hint="Name the file itself: `path:` or `source:` of the service.", node=node.name)
    batch = instance.max_num_batched_tokens
    whole = batch if instance.task == "generate" else max(batch, instance.max_model_len)  # an encoder takes all at once
    kv_type = _kv_type(instance)
    return (
        binary,
        *("--model", instance.weights_path),
        *("--alias", ",".join(names)),
        *("--host", address),
        *("--port", str(instance.port)),
        *("--parallel", str(instance.max_num_seqs)),
        *("--ctx-size", str(instance.max_num_seqs * instance.max_model_len)),  # each slot gets an equal part
        *("--batch-size", str(whole)),
        *("--ubatch-size", str(whole)),
        *("--cache-type-k", kv_type),
        *("--cache-type-v", kv_type),
        *("--n-gpu-layers", "0" if instance.accelerator == "cpu" else "999"),
        *(("--threads", str(share)) if share else ()),
        *(("--embeddings",) if instance.task == "embed" else ()),
        *(("--reranking",) if instance.task == "rerank" else ()),
        *("--fit", "off"),  # the plan has sized it
        "--metrics",
        "--no-slots",  # they show prompts to whoever asks
    )


def _threads(instance: Instance, node: Node, cores: int | None) -> int | None:
    return threads(node, instance.gpus[node.name], cores) if instance.accelerator == "cpu" else None


def _kv_type(instance: Instance) -> str:
    return "f16" if instance.kv_cache_dtype == "auto" else instance.kv_cache_dtype
