"""A process's output, read or followed over SSH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmfleet.launch.fleet import Fleet, NodeFolder, node_folder
from llmfleet.launch.nodes.scratch import scratch_folder
from llmfleet.launch.ray_serve.members import APPLICATION
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.transport import open_transport
from llmfleet.launch.transport.base import Transport
from llmfleet.planner.errors import CommandError, UnknownNameError
from llmfleet.planner.near import nearest


def logs(fleet: Fleet, instance: str, *, lines: int = 100, follow: bool = False) -> Iterator[str]:
    """Lines of an instance's output, or of "router", "ray-head" or "application"; "router@NODE" is another node's.
    Ends when the file ends, or never with `follow`."""
    with _log_of(fleet, instance) as (transport, path):
        stream = transport.stream(("tail", "-n", str(lines), *(("-F",) if follow else ()), "--", path))
        try:
            yield from stream.lines()
        finally:
            stream.close()


def searched(fleet: Fleet, instance: str, pattern: str) -> tuple[str, ...]:
    """All lines of an instance's output that have what an extended regular expression describes."""
    with _log_of(fleet, instance) as (transport, path):
        return tuple(transport.run(("grep", "-aE", "-e", pattern, "--", path)).stdout.splitlines())


@contextmanager
def _log_of(fleet: Fleet, instance: str) -> Iterator[tuple[Transport, str]]:
    node = fleet.inventory.node(_node_of(fleet, instance))
    transport = open_transport(node)
    try:
        folder = node_folder(node, fleet.inventory.cluster, transport.home())
        name = instance.partition("@")[0]
        path = f"{folder.process(name)}/log"
        if not transport.run(("test", "-r", path)).ok:
            path = f"{folder.logs}/{name}.log"
        if not transport.run(("test", "-r", path)).ok:
            raise CommandError(f"{instance} has no output yet", node=node.name, hint=_hint(fleet, instance, folder))
        yield transport, path
    finally:
        transport.close()


def _hint(fleet: Fleet, instance: str, folder: NodeFolder) -> str:
    on_serve = StateStore(fleet.folder, fleet.inventory.cluster).value.runtime == "ray-serve"
    if on_serve and any(i.id == instance for i in fleet.plan.instances):
        where = f"{scratch_folder(folder)}/session_latest/logs"
        return f"Replicas write into {where} on their node; `llmfleet logs {APPLICATION}` has why one did not start."
    return "llmfleet status shows whether it runs."


def _node_of(fleet: Fleet, name: str) -> str:
    homes = {i.id: i.nodes[0] for i in fleet.plan.instances}
    homes |= dict.fromkeys(("router", "ray-head", APPLICATION), fleet.plan.head)
    homes |= {f"router@{node}": node for node in fleet.plan.router.nodes}
    if name not in homes:
        raise UnknownNameError("instance", name, nearest(name, homes), hint="llmfleet status lists them.")
    return homes[name]
