"""An engine in a container, as the process that a node's supervisor keeps running: `docker run` in the foreground.

Health, restarts and stopping stay the supervisor's. SIGTERM reaches the engine through the client; what a signal does
not reach, because the client is gone, `docker rm --force` takes away before each life and after. One node's containers
share its network, its /dev/shm and nothing else: no folder but the weights and our scripts, both read-only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from llmfleet.launch.commands.devices import vendor
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Node, Runtime
from llmfleet.planner.plan import Instance

PYTHON = "python3"  # of the engine's images: vLLM's Dockerfiles link it to the one that has vLLM
VISIBLE = {
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ASCEND_RT_VISIBLE_DEVICES",
}  # a container counts its own from 0
OUTSIDE = {"TMPDIR"}  # folders of the node that the container does not have
# docs.vllm.ai, installation on AMD ROCm and vllm-ascend: what their images need of the host
AMD = ("--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "video", "--security-opt", "seccomp=unconfined")
ASCEND_DEVICES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
ASCEND_FILES = (
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64/",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
)


def in_container(instance: Instance, node: Node, process: Process, folder: NodeFolder) -> Process:
    """`process` as it would run inside: argv for `inside(node)`. Raises InputError where there is no image."""
    for path in (instance.weights_path, folder.bin):
        if ":" in path:
            what = f"{path} cannot be given to a container: a colon in it ends the name"
            raise InputError(what, hint="Use a path without colons.", node=node.name)
    name = container_name(folder, process.name)
    program, *args = process.argv
    env = {key: value for key, value in process.env.items() if key not in VISIBLE | OUTSIDE or key in node.runtime.env}
    argv = (
        *(node.runtime.kind, "run", "--rm", "--pull", "never", "--name", name),
        *("--network", "host", "--ipc", "host"),
        *(_devices(node, instance.gpus[node.name]) if instance.accelerator == "gpu" else ()),
        *("--volume", f"{instance.weights_path}:{instance.weights_path}:ro"),
        *("--volume", f"{folder.bin}:{folder.bin}:ro"),
        # values stay in the environment, out of sight
        *(word for key in sorted({*env, *process.env_files}) for word in ("--env", key)),
        *("--entrypoint", program, image_of(instance, node), *args),
    )
    return replace(process, argv=argv, env=env, cleanup=(node.runtime.kind, "rm", "--force", name))


def inside(node: Node) -> Node:
    """The node as a command inside a container sees it."""
    runtime: Runtime = node.runtime.model_copy(update={"python": PYTHON})
    return node.model_copy(update={"runtime": runtime})


def image_of(instance: Instance, node: Node) -> str:
    found = node.runtime.image or instance.image
    if found is None:
        raise InputError(
            f"there is no image for {instance.engine} {instance.engine_version}",
            hint="Name one: `runtime: {image: …}`.",
            node=node.name,
        )
    return found


def container_name(folder: NodeFolder, process: str) -> str:
    """The same in every life; different for each node of ours, since several may share a machine."""
    return f"llmfleet-{hashlib.sha256(folder.root.encode()).hexdigest()[:8]}-{process}"


def _devices(node: Node, gpus: Sequence[int]) -> tuple[str, ...]:
    maker = vendor(node)
    if maker == "nvidia" and node.runtime.kind == "podman":
        return tuple(word for g in gpus for word in ("--device", f"nvidia.com/gpu={g}"))  # CDI
    if maker == "nvidia":
        return ("--gpus", f'"device={",".join(map(str, gpus))}"')  # the quotes are docker's: commas part options
    if maker == "amd":
        return AMD
    if maker == "ascend":
        devices = (*(f"/dev/davinci{g}" for g in gpus), *ASCEND_DEVICES)
        files = tuple(word for path in ASCEND_FILES for word in ("--volume", f"{path}:{path}:ro"))
        return (*(word for device in devices for word in ("--device", device)), *files)
    return ()
