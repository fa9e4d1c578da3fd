"""inventory.yaml as typed values: what people know of their fleet. Units are resolved, ranges are expanded.

Everything here is frozen and refuses unknown keys. `parse.py` turns text into these values and says where a mistake is.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.inventory.asked import Slo, Traffic
from llmfleet.planner.inventory.gpus import GPUS
from llmfleet.planner.inventory.kept import NodePattern
from llmfleet.planner.inventory.ranges import expand
from llmfleet.planner.inventory.shapes import (
    Host,
    Image,
    Interface,
    Jump,
    Line,
    ModelId,
    NodePath,
    Path,
    PrecisionName,
    Source,
    Url,
    User,
    Variable,
    Version,
)
from llmfleet.planner.inventory.strict import Strict
from llmfleet.planner.inventory.units import BitsPerSecond, Name, PricePerHour, Seconds, Tokens
from llmfleet.planner.plan import EngineName, Task

Port = Annotated[int, Field(ge=1, le=65535)]
Gpus = Annotated[str, GPUS]


class Access(Strict):
    """How to reach a node. A node's own `access` overrides single keys of the file's."""

    transport: Literal["ssh", "openssh", "local", "fake"] = Field(
        default="ssh",
        description="`openssh` is the ssh program, for certificates, hardware keys and Kerberos; `local` runs commands "
        "on this machine, `fake` nowhere: for dry trials and tests.",
    )
    user: User | None = Field(default=None, description="SSH user; ssh_config's or your own name if left out.")
    port: Port | None = Field(default=None, description="SSH port; ssh_config's or 22 if left out.")
    key: Path | None = Field(
        default=None,
        examples=["~/.ssh/id_ed25519"],
        description="Private key file; ssh_config's and the agent's keys if left out.",
    )
    password_env: Variable | None = Field(
        default=None,
        examples=["FLEET_PASSWORD"],
        description="Name of an environment variable that holds the password.",
    )
    sudo: bool = Field(
        default=False,
        description="Whether commands on the node run as root, through sudo; its user must be allowed all of them. "
        "`~` is root's home then.",
    )
    sudo_password_env: Variable | None = Field(
        default=None,
        examples=["FLEET_SUDO_PASSWORD"],
        description="Name of an environment variable that holds the password, where sudo wants one.",
    )
    known_hosts: Path = Field(
        default="~/.ssh/known_hosts", description="Host keys are verified against this file, always."
    )
    jump: Jump | None = Field(default=None, description="Jump host: [user@]host[:port].")
    connect_timeout: Seconds = Field(default=10.0, description="Longest wait for a connection.")


class Runtime(Strict):
    """What a node starts engines with. A node's own `runtime` overrides single keys of the file's."""

    kind: Literal["process", "docker", "podman"] = Field(
        default="process",
        description="What an engine runs in: a virtual environment, or a container. Both are supervised processes.",
    )
    image: Image | None = Field(
        default=None,
        examples=["vllm/vllm-openai:v0.33.0"],
        description="Container image, for docker and podman; that of the planned engine's release if left out.",
    )
    image_tar: Path | None = Field(
        default=None,
        examples=["./vllm-0.33.0.tar"],
        description="A file on this machine, as `docker save` writes it, from which nodes that lack the image load it.",
    )
    python: Path = Field(
        default="python3",
        examples=["/opt/llmfleet/vllm/bin/python"],
        description="Absolute path of the Python whose environment has the engine; with containers, any Python.",
    )
    llama_server: Path | None = Field(
        default=None,
        description="llama.cpp's own llama-server, for instance built with CUDA; the xllamacpp package if left out.",
    )
    dir: NodePath = Field(
        default="~/.llmfleet",
        description="The only folder on the node that llmfleet writes to, but for `at_boot` and `supervisor: systemd`.",
    )
    env: dict[Variable, Line] = Field(
        default_factory=dict, description="Extra environment for engines. No secrets here."
    )
    versions: dict[EngineName, Version] = Field(
        default_factory=dict,
        description="Engine versions installed there: {vllm: 0.19.1}; the planner's choice if left out.",
    )
    interface: Interface | None = Field(
        default=None, description="Network interface of the node's address, for NCCL and gloo; discovered if left out."
    )
    at_boot: bool = Field(
        default=False,
        description="Whether what ran on the node starts again after a reboot: by a unit of systemd, the one file of "
        "llmfleet outside `dir`. Instances over several nodes wait for `llmfleet up`.",
    )
    supervisor: Literal["detached", "systemd"] = Field(
        default="detached",
        description="How the supervisors of engines and router run: detached from the SSH session; or as services of "
        "systemd, which brings back one that is killed, and starts them after a reboot without `at_boot`.",
    )

    @property
    def uses_systemd(self) -> bool:
        return self.at_boot or self.supervisor == "systemd"


class Node(Strict):
    """One machine, after ranges are expanded."""

    name: Name = Field(description="What the node is called in plans and commands.")
    host: Host = Field(description="Its address: a name or an IP.")
    address: Host | None = Field(
        default=None,
        examples=["10.0.1.10"],
        description="How other nodes and the router reach it, where not by `host`: because only ssh_config knows that, "
        "or the nodes share a faster network.",
    )
    gpus: Gpus | None = Field(
        default=None, description='"8 x A800-80G"; "2 x CPU-4G" for CPU slots of 4 GiB; left out: no accelerator.'
    )
    link: Literal["nvlink", "pcie", "none"] | None = Field(
        default=None, description="Between GPUs of the node; the GPU's usual one if left out."
    )
    nic: BitsPerSecond | None = Field(default=None, description="Network bandwidth of the node, in bits a second.")
    access: Access = Field(
        default_factory=Access, description="How to reach this node, where it differs from the file's `access`."
    )
    runtime: Runtime = Field(
        default_factory=Runtime, description="What engines start with here, where it differs from the file's `runtime`."
    )
    faulty: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="GPU indices that must not be used, from 0."
    )
    exclude: bool = Field(default=False, description="Leave the node out of plans and of every command.")
    max_weights: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Most of each GPU's memory that a model's weights may take, 0 to 1: the rest is for KV cache.",
    )
    price: PricePerHour | None = Field(
        default=None, description="Cost of the node an hour, in any one currency; for objective: cost."
    )


class LongContext(Strict):
    """A pool of its own for long prompts."""

    over: Tokens = Field(description="Prompts above this many tokens go to the long pool.")
    max: Tokens | None = Field(
        default=None, description="Longest context the long pool must take; the model's own if left out."
    )


def _all_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for written in names for name in expand(written))


class Placement(Strict):
    """Instances fixed by hand: one over these nodes, or some on each of those, in this shape."""

    nodes: Annotated[tuple[str, ...], AfterValidator(_all_names)] = Field(
        default=(),
        description="Nodes that one instance spans, names or ranges; several for pipeline parallelism, the first "
        "answers HTTP.",
    )
    each: Annotated[tuple[str, ...], AfterValidator(_all_names)] = Field(
        default=(), description="Nodes that have such instances of their own, names or ranges; in place of `nodes`."
    )
    count: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="So many of them; on each node of `each`.")
    tp: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Tensor parallelism: GPUs of each stage.")
    pp: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Pipeline stages; one a node if left out."
    )
    pp_partition: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, description="Layers of each stage; the engine's even split if left out."
    )
    part: Literal["half", "quarter"] | None = Field(
        default=None, description="Of one GPU, which such placements share; a whole one if left out."
    )

    def instances(self) -> tuple[tuple[str, ...], ...]:
        """The nodes of each instance that it stands for."""
        over: list[tuple[str, ...]] = [(name,) for name in self.each]
        return tuple(nodes for nodes in over or [self.nodes] for _ in range(self.count))


class Service(Strict):
    """A model that clients call by a name."""

    name: Name = Field(examples=["chat"], description="What clients write as `model` in a request.")
    model: ModelId = Field(description="Hugging Face id in the catalogue, or a folder with a config.json.")
    task: Task = Field(default="generate", description="What the model does.")
    traffic: Traffic | None = Field(default=None, description="What clients ask of it; unknown if left out.")
    slo: Slo = Field(default_factory=Slo, description="What clients may expect.")
    precision: tuple[PrecisionName, ...] = Field(
        default=(), description="Allowed, best first; what the hardware runs best if left out."
    )
    context: Tokens | None = Field(
        default=None, description="Longest prompt plus answer that must fit; the planner's choice if left out."
    )
    long_context: LongContext | None = Field(
        default=None, description="A pool of its own for long prompts; none if left out."
    )
    fallback: str | None = Field(
        default=None, examples=["chat-lite"], description="Service of the same task that takes what this one cannot."
    )
    engine: EngineName | None = Field(default=None, description="The engine to use; the planner's choice if left out.")
    path: Path | None = Field(
        default=None,
        examples=["/models/chat/q4_k_m.gguf"],
        description="Weights on the nodes: a folder, or a GGUF file; the model's folder in models_dir if left out.",
    )
    source: Source | None = Field(
        default=None,
        examples=["./weights/chat", "hf:Qwen/Qwen3-32B"],
        description="Weights to be brought to each node that needs them: a folder or file of this machine, or a hub's "
        "`hf:ORG/NAME` or `modelscope:ORG/NAME`, with @REVISION and :FILE where wanted.",
    )
    config: Path | None = Field(
        default=None,
        examples=["./config.json"],
        description="config.json on this machine, for a model the catalogue lacks.",
    )
    max_concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Requests one instance may hold at once; the planner's figure if left out."
    )
    min_instances: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1, description="Instances to run at least, whatever the traffic."
    )
    prefix_bytes: Annotated[int, Field(ge=64, le=1_048_576)] = Field(
        default=4096,
        description="Bytes of a prompt's start by which the router tells requests apart: more than the system prompt "
        "that all of them share.",
    )
    enforce_eager: bool = Field(default=False, description="Start without CUDA graphs: less memory, slower steps.")
    nodes: tuple[NodePattern, ...] = Field(
        default=(),
        description="The only nodes that the planner may use for it: names, ranges, `*` for any text; all if left out.",
    )
    avoid: tuple[NodePattern, ...] = Field(
        default=(), description="Nodes that the planner must not use for it; written like `nodes`."
    )
    placement: tuple[Placement, ...] = Field(
        default=(), description="Instances fixed by hand; the planner checks them and adds none."
    )


class Tls(Strict):
    """A certificate of the router, as PEM files on this machine, found from the inventory's folder."""

    certificate: Path = Field(examples=["./fleet.pem"], description="The certificate, with the chain below it.")
    key: Path = Field(examples=["./fleet.key"], description="Its private key, without a password.")


class Download(Strict):
    """How weights are fetched from a hub, once for the fleet. From there nodes pass them on to each other."""

    by: Literal["node", "controller"] = Field(
        default="node",
        description="`node`: the first that needs them asks the hub; `controller`: this machine does, so that no node "
        "needs the internet.",
    )
    endpoint: Url | None = Field(
        default=None,
        examples=["https://hf-mirror.com"],
        description="A mirror of the hub; HF_ENDPOINT of this machine's environment, else the hub itself, if left out.",
    )
    token_env: Variable | None = Field(
        default=None,
        examples=["HF_TOKEN"],
        description="Name of an environment variable of this machine that holds the hub's token.",
    )


class Router(Strict):
    """Where clients connect."""

    node: str | None = Field(
        default=None,
        examples=["head"],
        description="Its node; the first node without GPUs if left out, else the first node.",
    )
    also: tuple[str, ...] = Field(
        default=(), description="More nodes with a router of the same configuration, for when the first is away."
    )
    address: Host | None = Field(
        default=None,
        examples=["10.0.0.100"],
        description="What clients connect to where routers share an address: an IP that moves between their nodes, "
        "which each also listens on, or a name.",
    )
    port: Port = Field(default=8080, description="Port for clients.")
    bind: Host | None = Field(default=None, description="Address to listen on; the node's own address if left out.")
    admin_port: Port = Field(default=9901, description="Port of the router's own figures, on the node's loopback.")
    keys_file: Path | None = Field(
        default=None,
        examples=["./keys"],
        description="API keys of clients, a file on this machine, found from the inventory's folder, with lines "
        "`NAME: KEY [low] [REQUESTS/s]`; anybody may ask if left out.",
    )
    tls: Tls | None = Field(default=None, description="HTTPS for clients; plain HTTP if left out.")


class Policy(Strict):
    """What a good plan is."""

    redundancy: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="Nodes that may fail while every service still meets its demand."
    )
    objective: Literal["goodput", "cost", "min-nodes"] = Field(
        default="goodput", description="What to make most, or least, of."
    )
    headroom: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="Part of each instance's capacity kept free, 0 to 1."
    )
    share_gpus: bool = Field(
        default=True,
        description="Whether small models may share a GPU where services would go short otherwise: each gets its part "
        "of the memory exactly, and of the speed by turns.",
    )
    multi_node: Literal["ray", "mp"] = Field(
        default="ray",
        description="What carries instances over several nodes: `ray`, or vLLM's own processes (`mp`), which need "
        "no Ray but as many GPUs on each node; where they differ it stays Ray.",
    )


class Settings(Strict):
    """What the file as written and the resolved inventory have in common."""

    cluster: Name = Field(examples=["rag"], description="Name of the fleet; part of every name that llmfleet gives.")
    services: tuple[Service, ...] = Field(description="The models that clients call.")
    router: Router = Field(default_factory=Router, description="Where the router runs and listens.")
    policy: Policy = Field(default_factory=Policy, description="What the planner aims for.")
    download: Download = Field(default_factory=Download, description="How weights are fetched from a hub.")
    models_dir: NodePath = Field(default="/models", description="Folder on the nodes that holds weights by model id.")
    engine_key_env: Variable | None = Field(
        default=None,
        examples=["FLEET_ENGINE_KEY"],
        description="Name of an environment variable of this machine with a key that engines want from whoever asks, "
        "and that the router sends; engines answer anybody if left out.",
    )
    engine_port: Annotated[int, Field(ge=1, le=65000)] = Field(
        default=8100, description="First port that instances of a host use."
    )


class Inventory(Settings):
    """The whole file, resolved. `warnings` are remarks of the parser that stop nothing."""

    nodes: tuple[Node, ...]
    warnings: tuple[str, ...] = ()

    def node(self, name: str) -> Node:
        """Raises UnknownNameError."""
        if found := self._nodes_by_name.get(name):
            return found
        known = [*self._nodes_by_name]
        raise UnknownNameError("node", name, get_close_matches(name, known, n=3), known=known)

    def service(self, name: str) -> Service:
        """Raises UnknownNameError."""
        by_name = {service.name: service for service in self.services}
        if found := by_name.get(name):
            return found
        raise UnknownNameError("service", name, get_close_matches(name, by_name, n=3), known=[*by_name])

    @cached_property
    def _nodes_by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}
