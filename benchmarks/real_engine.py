"""One real vLLM on CPU from the lab's environment (`make lab` builds it), started with a plan's arguments."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from running import Running, free_ports, until

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.lab.engines import ENGINE_ENV, EngineEnv

from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.fleet import NodeFolder
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Plan

HERE = "127.0.0.1"
START_WITHIN_S = 400
INVENTORY = """
cluster: bench
access: {{transport: local}}
runtime: {{python: {python}, versions: {{vllm: 0.32.0}}}}
nodes: [{{name: n1, host: 127.0.0.1, gpus: 1 x CPU-4G}}]
services:
  - name: chat
    model: {chat}
    path: {chat}
    engine: vllm
    precision: [fp32]
    context: 2048
    enforce_eager: true
    {more}
router: {{port: {port}, admin_port: {admin}}}
engine_port: {engine}
"""


@dataclass(frozen=True)
class World:
    """What an engine is started from."""

    env: EngineEnv
    folder: Path
    inventory: Inventory
    plan: Plan

    @property
    def variables(self) -> dict[str, str]:
        own = {"VLLM_CACHE_ROOT": str(self.env.models / "vllm-cache"), "VLLM_PLUGINS": "", "VLLM_HOST_IP": HERE}
        return {**ENGINE_ENV, **own, "PATH": f"{self.env.folder}/venv/bin:{os.environ['PATH']}"}


def inventory_text(env: EngineEnv, more: str = "") -> str:
    """With free ports. `more`: further keys of the service."""
    port, admin, engine = free_ports(3)
    return INVENTORY.format(python=env.python, chat=env.chat, port=port, admin=admin, engine=engine, more=more)


@contextmanager
def running_engine(world: World, arguments: Mapping[str, str] = {}) -> Iterator[str]:
    """Its address, once it is healthy. `arguments`: in place of the plan's, or beside them; flags have no value."""
    (instance,), node = world.plan.instances, world.inventory.nodes[0]
    home = NodeFolder(str(ROOT / "launch" / "remote"))
    made = engine_process(
        instance, node, folder=home, addresses={node.name: HERE}, ray_address="", names=("chat",), cores=os.cpu_count()
    )
    argv = [*made.argv]
    for name, value in arguments.items():
        if name in argv:
            argv[argv.index(name) + 1] = value
        else:
            argv += [name, value] if value else [name]
    env = {**made.env, **world.variables, "PYTHONPATH": str(ROOT / "launch" / "remote")}
    engine = Running(argv, instance.port, log=world.folder / "engine.log", env=env)
    url = f"http://{HERE}:{instance.port}"
    try:
        until(lambda: answers(f"{url}/health"), "vLLM, see engine.log", START_WITHIN_S)
        yield url
    finally:
        engine.stop()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own, on loopback
            return bool(answer.status == 200)
    except OSError:
        return False
