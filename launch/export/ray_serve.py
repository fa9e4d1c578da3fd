"""`llmfleet export ray-serve`: an application, its Serve config and the router before it. Equal plans, equal files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Final

from llmfleet.launch.commands.ray import SILENT_NODE, SILENT_PEER
from llmfleet.launch.export.kinds import Export, Kind, kinds_of
from llmfleet.launch.export.serve_app import (
    HTTP_PORT,
    RAY_VERSION,
    exported_places,
    in_serve_llm,
    node_resources,
    serve_config,
)
from llmfleet.launch.export.serve_front import serve_router_files
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.router.xds import to_yaml
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

GCS_PORT: Final = 6379
FOLDER: Final = "/opt/llmfleet"
SCRIPTS: Final = (
    "serve_front.py", "serve_pieces.py", "serve_rag.py", "serve_engine.py", "serve_child.py", "serve_vllm.py",
)  # fmt: skip
OF_ENGINES: Final = {"vllm": "hold_headers.py", "llama.cpp": "llamacpp_server.py"}


def ray_serve(inventory: Inventory, plan: Plan, *, folder: str = FOLDER) -> Export:
    """`folder`: where the files will be on every node.

    Raises InputError for names, shapes and addresses that Serve or its router cannot take.
    """
    kinds = kinds_of(inventory, plan)
    home = NodeFolder(folder.rstrip("/"))
    config = serve_config(plan, kinds, exported_places(home.root, inventory.models_dir))
    carrying = {n for i in plan.instances for n in i.nodes}  # a head that only coordinates may die without them
    hosts = [node.address or node.host for node in inventory.nodes if node.name in carrying]
    rag = config["applications"][0]["args"]["rag"] is not None
    router = serve_router_files(plan, kinds, hosts, home.router, rag=rag)
    files = {
        "serve.yaml": to_yaml(config),
        **{f"bin/{name}": script(name) for name in scripts_of(kinds)},
        **{f"router/{path}": text for path, text in router.items()},
    }
    head = inventory.node(plan.head)
    deploy = f"serve run --non-blocking --address {head.address or head.host}:{GCS_PORT} {home.root}/serve.yaml"
    envoy = f"envoy --config-path {home.router}/bootstrap.yaml"
    lost, before = _lost(inventory, kinds, plan.head, rag=rag), _before(inventory, plan, kinds, home)
    return Export(files, tuple(lost), tuple(before), (f"on {plan.head}: {deploy}", f"on {plan.head}: {envoy}"))


def script(name: str) -> str:
    """The text of a file that runs on nodes: in Ray's Python, or as a script of its own."""
    room = "serve" if name in SCRIPTS else "remote"
    return resources.files(f"llmfleet.launch.{room}").joinpath(name).read_text()


def scripts_of(kinds: Sequence[Kind]) -> tuple[str, ...]:
    """What `bin` on the nodes holds."""
    return (*SCRIPTS, *sorted({OF_ENGINES[k.one.engine] for k in kinds if not in_serve_llm(k)}))


def _lost(inventory: Inventory, kinds: Sequence[Kind], head: str, *, rag: bool) -> Iterator[str]:
    yield "which GPUs of a node, and which node of its class, a replica gets is Ray's choice, not the plan's"
    yield "weights and limits hold for a kind of instance; among its replicas Ray Serve chooses"
    yield "a replica whose process died gets no more requests at once; one whose node died, when Ray has noticed"
    yield "engines refuse nothing by themselves: Serve queues, and refuses what is above its limit"
    yield "requests pass a Python proxy and a Python ingress of Serve"
    yield "paths are chat, completions, embeddings, score and rerank: no /v1/responses, no /v1/messages"
    yield "weights are not copied to nodes: they lie there already"
    yield "llmfleet status, drain, bench and watch do not look into Serve: serve status does"
    if old := [kind.name for kind in kinds if not in_serve_llm(kind)]:
        yield f"Serve LLM of Ray {RAY_VERSION} cannot run {', '.join(old)}: their engines run as its children"
    open_to_all = "Serve listens on all addresses of every node and asks nobody for a key"
    yield f"{open_to_all}: let only {head}, which has the router, reach port {HTTP_PORT}"
    if inventory.router.keys_file is not None or inventory.router.tls is not None:
        yield "no keys and no HTTPS: the exported router answers every client that reaches its port"
    if not rag:
        yield "no /v1/rag: the plan lacks a service that embeds, one that ranks, or one that generates"


def _before(inventory: Inventory, plan: Plan, kinds: Sequence[Kind], home: NodeFolder) -> Iterator[str]:
    yield f"copy the folder to {home.root} on every node"
    head = inventory.node(plan.head)
    address = f"{head.address or head.host}:{GCS_PORT}"
    of = {n: kind for kind in kinds for i in kind.instances for n in i.nodes}
    for node in inventory.nodes:
        leads = node.name == plan.head
        if not leads and node.name not in of:
            continue
        env = " ".join(f"{k}={v}" for k, v in (SILENT_NODE if leads else SILENT_PEER).items())
        start = f"--head --port {GCS_PORT}" if leads else f"--address {address}"
        classes = node_resources(of[node.name]) if node.name in of else {}
        words = f" --resources '{_json(classes)}'" if classes else " --num-gpus 0"
        yield f"on {node.name}: env {env} ray start {start} --node-ip-address {node.address or node.host}{words}"


def _json(resources: dict[str, int]) -> str:
    return "{" + ", ".join(f'"{name}": {count}' for name, count in resources.items()) + "}"
