"""What a machine turned out to be, in the words of an inventory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from llmfleet.launch.discover.hosts import Machine
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.launch.nodes.gpu_tools import Link, parse_topology
from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.inventory.model import Access

GIB = 1 << 30
VIRTUAL = re.compile(r"lo|docker|br-|veth|virbr|cni|flannel|cali|tun|tap|podman")


@dataclass(frozen=True, slots=True)
class Found:
    """One machine. `remarks` are what the inventory has no key for, and what a person has to decide."""

    name: str
    host: str
    access: Access
    gpus: str | None
    link: Link | None
    nic: str | None
    interface: str | None  # only where the machine has several networks
    remarks: tuple[str, ...]
    problems: tuple[str, ...] = ()


def found(machine: Machine, name: str, facts: NodeFacts) -> Found:
    gpus, problems = _gpus(facts)
    own = facts.interfaces.get(facts.interface or "")
    speed = own.mbits if own else None
    networks = [n for n, i in facts.interfaces.items() if not VIRTUAL.match(n) and i.mbits]
    return Found(
        name=name,
        host=machine.host,
        access=machine.access,
        gpus=gpus,
        link=parse_topology(facts.topology) if gpus else None,
        nic=bandwidth(speed) if speed else None,
        interface=facts.interface if len(networks) > 1 and facts.interface in networks else None,
        remarks=tuple(_remarks(facts)),
        problems=problems,
    )


def names(machines: Iterable[tuple[Machine, NodeFacts]]) -> dict[str, str]:
    """By host as asked: the machine's own short name where nobody else has it, else one made from the host."""
    pairs = [(machine, _name(facts.hostname.split(".")[0])) for machine, facts in machines]
    often = Counter(name for _, name in pairs)
    taken: dict[str, str] = {}
    for machine, name in pairs:
        if not name or name == "localhost" or often[name] > 1:
            name = _from_host(machine.asked)
        while name in taken.values():
            name += "-x"
        taken[machine.asked] = name
    return taken


def bandwidth(mbits: int) -> str:
    """25000 as 25Gb/s."""
    return f"{mbits // 1000}Gb/s" if mbits % 1000 == 0 else f"{mbits}Mb/s"


def _gpus(facts: NodeFacts) -> tuple[str | None, tuple[str, ...]]:
    """By the driver's name through the catalogue, never by memory alone; and what keeps it from the inventory."""
    if not facts.gpus:
        said = f"no GPU: {facts.gpu_error.splitlines()[-1]}" if facts.gpu_error and _is_broken(facts.gpu_error) else ""
        return None, (said,) if said else ()
    kinds = Counter(gpu.name for gpu in facts.gpus)
    if len(kinds) > 1:
        shown = " and ".join(f"{count} x {name}" for name, count in kinds.items())
        return None, (f"{shown}: the GPUs of one node must be alike. Two nodes of one host, each with a dir, may do.",)
    (name, count), known = kinds.most_common(1)[0], None
    try:
        known = catalog().gpu(name)
    except UnknownNameError as error:
        near = f"; nearest: {', '.join(error.nearest)}" if error.nearest else ""
        return None, (f"gpus: {count} x {name} ({facts.gpus[0].memory_mib} MiB) is not in the catalogue{near}",)
    return f"{count} x {known.name}", ()


def _is_broken(error: str) -> bool:
    """A tool that is there and fails; that there is none says only that there are no GPUs."""
    return "No such file" not in error


def _remarks(facts: NodeFacts) -> Iterator[str]:
    if facts.gpus:
        first = facts.gpus[0]
        cuda = f", CUDA {facts.cuda}" if facts.cuda else ""
        yield f"{first.name}, {first.memory_mib} MiB, driver {first.driver or 'unknown'}{cuda}"
    yield f"{facts.cpus} cores, {facts.memory_total / GIB:.0f} GiB memory"
    disks = sorted({(round(d.free / GIB), path) for path, d in facts.disks.items() if d.free is not None}, reverse=True)
    yield ", ".join(f"{free} GiB free for {path}" for free, path in disks)
    runtimes = [f"{name} {r.version}" for name, r in sorted(facts.runtimes.items()) if r.version]
    yield f"Python {facts.python}, {' and '.join(runtimes) or 'no container runtime'}"


def _name(text: str) -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    return name[:63].strip("-")


def _from_host(host: str) -> str:
    try:
        return f"n-{str(ip_address(host)).replace('.', '-').replace(':', '-')}"
    except ValueError:
        return _name(host.split(".")[0]) or "n"
