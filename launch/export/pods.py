"""The pod of an instance: the engine as it was planned, in its class's image, on its class's GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from llmfleet.launch.commands.container import OUTSIDE, VISIBLE, image_of, inside
from llmfleet.launch.commands.devices import vendor
from llmfleet.launch.commands.llamacpp import llamacpp_image_process
from llmfleet.launch.commands.vllm import vllm_process
from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.fleet import NodeFolder
from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.inventory.gpus import cpu_slot_gib, parse_gpus
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

Json = dict[str, Any]

FOLDER: Final = NodeFolder("/opt/llmfleet")
SHM: Final = "/dev/shm"  # noqa: S108 - where engines exchange tensors
PORT: Final = 8000
GRACE_S: Final = 900  # as long as the router lets a stream run on
OUT_OF_DNS_S: Final = 10  # from the order to end until the router has stopped sending
RESOURCE: Final = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "ascend": "huawei.com/Ascend910"}
PRODUCT: Final = "nvidia.com/gpu.product"  # set by NVIDIA's GPU feature discovery
CLASS: Final = "llmfleet.io/class"
COPY_IMAGE: Final = "busybox:1.37"
CACHE: Final = "/var/lib/llmfleet/models"  # on the node, where weights come from a claim
COPY: Final = """\
set -eu
mkdir -p "$(dirname "$TO")"
exec 9> "$TO.lock"
flock 9
[ -e "$TO.complete" ] && exit 0
rm -rf "$TO"
cp -r "$FROM" "$TO"
touch "$TO.complete"
"""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where pods find weights: at the plan's paths on the nodes, or in a claim, copied to each node once."""

    claim: str | None = None
    models_dir: str = "/models"


def pod_spec(kind: Kind, names: Sequence[str], weights: Weights) -> Json:
    """`names`: model names that the engine answers to. Raises InputError where there is no image."""
    instance = replace(kind.one, port=PORT, weights_path=_path(kind.one, weights))
    argv, env = _process(instance, kind.node, names)
    volumes, mounts, copying = weights_of(kind.one, weights)
    container: Json = {
        "name": "engine",
        "image": image_of(instance, inside(kind.node)),
        "command": [argv[0]],
        "args": [*argv[1:]],
        "env": [{"name": k, "value": v} for k, v in sorted(env.items())] + _own_address(instance),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": _resources(instance, kind.node),
        "volumeMounts": [*mounts, mounted("shm", SHM), mounted("scripts", FOLDER.bin, read_only=True)],
        "startupProbe": {**_probe(), "periodSeconds": 10, "failureThreshold": 180},
        "readinessProbe": {**_probe(), "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**_probe(), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": OUT_OF_DNS_S}}},
    }
    return {
        "terminationGracePeriodSeconds": GRACE_S + OUT_OF_DNS_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **where(kind.node, kind.node_class),
        **({"initContainers": [copying]} if copying else {}),
        "containers": [container],
        "volumes": [
            *volumes,
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(1, instance.tp) * 2}Gi"}},
            {"name": "scripts", "configMap": {"name": "engine-scripts"}},
        ],
    }


def _process(instance: Instance, node: Node, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """As inside a container that sees its own GPUs only. Streams may run on for as long as the pod may."""
    address = "0.0.0.0"  # noqa: S104 - the pod's own; a network policy says who may reach it
    if instance.engine == "llama.cpp":
        process = llamacpp_image_process(instance, inside(node), address=address, names=names)
    else:
        single = replace(instance, nodes=instance.nodes[:1], gpus={n: instance.gpus[n] for n in instance.nodes[:1]})
        process = vllm_process(
            single, inside(node), folder=FOLDER, addresses={node.name: address}, ray_address="", names=names
        )
    argv = list(process.argv)
    if "--shutdown-timeout" in argv:
        argv[argv.index("--shutdown-timeout") + 1] = str(GRACE_S - 30)
    gone = VISIBLE | OUTSIDE | {"VLLM_HOST_IP", "HIP_VISIBLE_DEVICES"}
    return tuple(argv), {k: v for k, v in process.env.items() if k not in gone or k in node.runtime.env}


def _own_address(instance: Instance) -> list[Json]:
    if instance.engine != "vllm":
        return []
    return [{"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def _probe() -> Json:
    return {"httpGet": {"path": "/health", "port": "http"}}


def mounted(name: str, path: str, *, read_only: bool = False) -> Json:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _resources(instance: Instance, node: Node) -> Json:
    count = len(next(iter(instance.gpus.values())))
    if instance.accelerator == "cpu":
        gib = cpu_slot_gib(parse_gpus(node.gpus or "").name) or 1
        return {"requests": {"cpu": str(count), "memory": f"{gib * count}Gi"}, "limits": {"memory": f"{gib * count}Gi"}}
    least = {"cpu": str(2 * count), "memory": f"{8 * count}Gi"}
    return {"requests": least, "limits": {RESOURCE.get(vendor(node), RESOURCE["nvidia"]): str(count)}}


def where(node: Node, node_class: str) -> Json:
    """On its class: by the product that NVIDIA's discovery labels nodes with, and by our own label for the rest."""
    products = gpu_products(node)
    if not products:
        return {"nodeSelector": {CLASS: node_class}}
    term = {"matchExpressions": [{"key": PRODUCT, "operator": "In", "values": products}]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}},
        "tolerations": [{"key": RESOURCE["nvidia"], "operator": "Exists", "effect": "NoSchedule"}],
    }


def gpu_products(node: Node) -> list[str]:
    """Names that NVIDIA's driver may give the GPU, as discovery writes them into a label: spaces become dashes."""
    if node.gpus is None or vendor(node) != "nvidia":
        return []
    try:
        gpu = catalog().gpu(parse_gpus(node.gpus).name)
    except UnknownNameError:
        return []
    names = [name.removeprefix("NVIDIA ") for name in (gpu.name, *gpu.aliases)]
    both = [label for name in names for label in (name, f"NVIDIA {name}")]
    return sorted({label.replace(" ", "-") for label in both})


def _path(instance: Instance, weights: Weights) -> str:
    return instance.weights_path.replace("{models}", weights.models_dir.rstrip("/"))


def weights_of(instance: Instance, weights: Weights) -> tuple[list[Json], list[Json], Json | None]:
    """Volumes, the engine's mounts, and the container that copies first."""
    path = PurePosixPath(_path(instance, weights))
    folder = path.parent if path.suffix == ".gguf" else path
    if weights.claim is None:
        volume = {"name": "weights", "hostPath": {"path": str(folder), "type": "Directory"}}
        return [volume], [mounted("weights", str(folder), read_only=True)], None
    inside_claim = str(folder).removeprefix(weights.models_dir.rstrip("/")).lstrip("/")
    volumes = [
        {"name": "weights", "hostPath": {"path": CACHE, "type": "DirectoryOrCreate"}},
        {"name": "source", "persistentVolumeClaim": {"claimName": weights.claim, "readOnly": True}},
    ]
    mount = {**mounted("weights", str(folder), read_only=True), "subPath": inside_claim}
    copying = {
        "name": "weights",
        "image": COPY_IMAGE,
        "command": ["sh", "-c", COPY],
        "env": [
            {"name": "FROM", "value": f"/source/{inside_claim}"},
            {"name": "TO", "value": f"/cache/{inside_claim}"},
        ],
        "volumeMounts": [mounted("source", "/source", read_only=True), mounted("weights", "/cache")],
    }
    return volumes, [mount], copying
