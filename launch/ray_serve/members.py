"""What runs on nodes where Ray Serve runs the engines: Ray, and on the head what keeps the application. Pure.

The head keeps what Ray knows of the cluster on its disk: when it dies and comes back, replicas have served on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Final

from llmfleet.launch.commands.ray import Managed, ray_address_env, ray_head_process, ray_worker_process
from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.export.serve_app import node_resources
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.transport.base import Argv
from llmfleet.planner.inventory.model import Node

APPLICATION: Final = "application"  # the name of its process, and of its kind
START_WITHIN_S: Final = 2700.0  # longer than an engine may take: Serve says then which one did not start
KEEPER, LEAVE = "serve_keeper.py", "serve_leave.py"
KEEPER_PORT: Final = 8001  # on loopback of the head
MODULES: Final = ("ray.serve", "fastapi", "aiohttp")
OF_SERVE_LLM: Final = ("jsonref", "pyarrow")  # it takes half a minute to import itself
CONFIG: Final = "serve.yaml"
HOME: Final = "LLMFLEET_HOME"
# Ray's own words. Proxies that get no requests any more end as soon as they have finished; raylets wait for a head that
# is away. The embedded store of the head is alpha in 2.60.
OF_SERVE: Final = {"RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "2", "RAY_gcs_rpc_server_reconnect_timeout_s": "3600"}


def working(kinds: Sequence[Kind], nodes: Iterable[str]) -> tuple[Kind, ...]:
    """The kinds with those of their instances all of whose nodes take part; none that has no instance left."""
    present = set(nodes)
    left = (replace(k, instances=tuple(i for i in k.instances if present.issuperset(i.nodes))) for k in kinds)
    return tuple(kind for kind in left if kind.instances)


def ray_processes(
    head: str, kinds: Iterable[Kind], node_of: Mapping[str, Node], folders: Mapping[str, NodeFolder],
    addresses: Mapping[str, str],
) -> tuple[Process, ...]:
    """Ray's head, and a worker on every other node that carries an instance."""
    managed = managed_by_node(kinds, folders)
    own = managed.pop(head, Managed(cpus=0, env=_env(folders[head])))
    store = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": gcs_folder(folders[head])}
    own = replace(own, env={**own.env, **store})
    return (
        ray_head_process(node_of[head], address=addresses[head], folder=folders[head], managed=own),
        *(
            ray_worker_process(
                node_of[name],
                address=addresses[name],
                folder=folders[name],
                head_address=addresses[head],
                managed=managed[name],
            )
            for name in sorted(managed)
        ),
    )


def managed_by_node(kinds: Iterable[Kind], folders: Mapping[str, NodeFolder]) -> dict[str, Managed]:
    """A CPU for each rank, so that CPU slots hold no more than was planned either; the GPUs of the plan; and the
    class."""
    found: dict[str, Managed] = {}
    for kind, instance in ((k, i) for k in kinds for i in k.instances):
        for node, indices in instance.gpus.items():
            known = found.get(node, Managed(cpus=0, env=_env(folders[node])))
            found[node] = replace(
                known,
                gpus=tuple(sorted({*known.gpus, *(indices if instance.accelerator == "gpu" else ())})),
                accelerator=instance.accelerator,
                cpus=known.cpus + len(indices),
                resources={**known.resources, **node_resources(kind)},
            )
    return found


def _env(folder: NodeFolder) -> dict[str, str]:
    return {"PYTHONPATH": folder.bin, HOME: folder.root, **OF_SERVE}


def leave_command(head: Node, folder: NodeFolder, head_address: str, address: str) -> Argv:
    """On the head. `address`: of the node that leaves."""
    given = [f"{name}={value}" for name, value in {**ray_address_env(head_address), **head.runtime.env}.items()]
    return ("env", *given, head.runtime.python, folder.script(LEAVE), address)


def gcs_folder(folder: NodeFolder) -> str:
    return f"{folder.root}/gcs"


def config_path(folder: NodeFolder) -> str:
    return f"{folder.process(APPLICATION)}/{CONFIG}"


@cache
def keeper_text() -> bytes:
    return resources.files("llmfleet.launch.serve").joinpath(KEEPER).read_bytes()


def application_process(head: Node, folder: NodeFolder, address: str, config: str) -> Process:
    """Deploys `config`, the text, and says how it is. A keeper of another llmfleet is another process; replicas do
    not notice."""
    digest = hashlib.sha256(config.encode() + keeper_text()).hexdigest()[:12]
    own = ("--digest", digest, "--port", str(KEEPER_PORT))
    return Process(
        name=APPLICATION,
        node=head.name,
        kind=APPLICATION,
        argv=(head.runtime.python, folder.script(KEEPER), config_path(folder), *own),
        env={**_env(folder), **ray_address_env(address), **head.runtime.env},
        health_url=f"http://127.0.0.1:{KEEPER_PORT}/health",
        stop_grace_s=5.0,
        hang_after_s=120.0,
        start_within_s=START_WITHIN_S,
    )

