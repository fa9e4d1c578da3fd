"""What the types of single nodes cannot see: ranges that do not match, names and hosts given twice, unknown GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llmfleet.planner.inventory.draft import Draft
from llmfleet.planner.inventory.findings import Finding, repeats
from llmfleet.planner.inventory.gpus import cpu_slot_gib, parse_gpus
from llmfleet.planner.inventory.ranges import MOST_NODES, parse_range
from llmfleet.planner.inventory.shapes import HOST_SHAPE, NAME, Shape, shown
from llmfleet.planner.inventory.source import Loc
from llmfleet.planner.inventory.written import Entry

Identity = Callable[[Entry, str, str], object]  # of an entry's member, with its name and its host


def node_findings(draft: Draft) -> Iterator[Finding]:
    for check in (_ranges, _shapes, _names_twice, _hosts_twice, _gpus, _none_left):
        yield from check(draft)


def node_warnings(draft: Draft) -> Iterator[Finding]:
    """What is odd, but may be meant."""
    yield from _shared_hosts(draft)


def _ranges(draft: Draft) -> Iterator[Finding]:
    """What stands between entries and their expansion."""
    total = 0
    for index, node in draft.nodes.items():
        names, hosts = parse_range(node.name).count, parse_range(node.host).count
        total += names
        if names != hosts:
            message = f"stands for {hosts:,} host{'s' * (hosts != 1)}, but the name {shown(node.name)} for {names:,}."
            yield Finding(("nodes", index, "host"), message, "Each node needs a host of its own.")
        addresses = parse_range(node.address).count if node.address else names
        if addresses != names:
            message = f"stands for {addresses:,} address{'es' * (addresses != 1)}, but the name for {names:,}."
            yield Finding(("nodes", index, "address"), message, "Each node needs an address of its own.")
    if total > MOST_NODES:
        yield Finding(("nodes",), f"{total:,} nodes in all; at most {MOST_NODES:,} are allowed.")


def _shapes(draft: Draft) -> Iterator[Finding]:
    for entry in draft.entries:
        yield from _misshapen(NAME, entry.names, ("nodes", entry.index, "name"))
        yield from _misshapen(HOST_SHAPE, entry.hosts, ("nodes", entry.index, "host"))
        yield from _misshapen(HOST_SHAPE, filter(None, entry.addresses), ("nodes", entry.index, "address"))


def _misshapen(shape: Shape, texts: Iterable[str], loc: Loc) -> Iterator[Finding]:
    for text in texts:
        try:
            shape.parse(text)
        except ValueError as error:
            yield Finding(loc, str(error))
            return


def _names_twice(draft: Draft) -> Iterator[Finding]:
    for entry, name, first in _repeated(draft.entries, lambda _, name, __: name):
        message = f"the node {shown(name)} stands here a second time."
        yield Finding(("nodes", entry.index, "name"), message, first=("nodes", first.index, "name"))


def _hosts_twice(draft: Draft) -> Iterator[Finding]:
    """A machine that is listed twice would be planned twice."""
    for entry, host, first in _repeated(_reachable(draft), lambda e, _, host: (_machine(e, host), e.runtime.dir)):
        message = f"the host {shown(host)} is a node already."
        hint = "One machine is one node; nodes that share one on purpose need a runtime.dir each."
        yield Finding(("nodes", entry.index, "host"), message, hint, first=("nodes", first.index, "host"))


def _shared_hosts(draft: Draft) -> Iterator[Finding]:
    for entry, host, first in _repeated(_reachable(draft), lambda e, _, host: _machine(e, host)):
        message = f"the host {shown(host)} carries another node too: GPUs that both have are counted twice."
        yield Finding(("nodes", entry.index, "host"), message, first=("nodes", first.index, "host"))


def _reachable(draft: Draft) -> Iterable[Entry]:
    return (
        e for e in draft.entries if draft.sound("nodes", e.index, "access") and draft.sound("nodes", e.index, "runtime")
    )


def _machine(entry: Entry, host: str) -> object:
    access = entry.access
    if access.transport == "ssh":
        return host.lower().rstrip("."), access.port or 22, access.jump
    return access.transport, host if access.transport == "fake" else ""


def _repeated(entries: Iterable[Entry], identity: Identity) -> Iterator[tuple[Entry, str, Entry]]:
    """Of each entry the first member whose identity was there before: the entry, what repeats, the earlier entry."""
    seen: dict[object, Entry] = {}
    for entry in entries:
        for name, host in zip(entry.names, entry.hosts, strict=True):
            key = identity(entry, name, host)
            if key in seen:
                yield entry, name if key == name else host, seen[key]
                break
            seen[key] = entry


def _gpus(draft: Draft) -> Iterator[Finding]:
    for index, node in draft.nodes.items():
        if not draft.sound("nodes", index, "gpus"):
            continue
        group = parse_gpus(node.gpus) if node.gpus else None
        if group:
            yield from _unknown_gpu(draft, group.name, ("nodes", index, "gpus"))
        yield from _faulty(node.faulty, group.count if group else 0, ("nodes", index, "faulty"))


def _unknown_gpu(draft: Draft, name: str, loc: Loc) -> Iterator[Finding]:
    known, near = (True, ()) if draft.known_gpu is None or cpu_slot_gib(name) else draft.known_gpu(name)
    if not known:
        close = f"Nearest: {', '.join(near)}. " if near else ""
        yield Finding(loc, f"{shown(name)} is no known GPU.", f"{close}See: llmfleet estimate --list-gpus")


def _faulty(faulty: tuple[int, ...], count: int, loc: Loc) -> Iterator[Finding]:
    counted = f"they count from 0 to {count - 1}" if count else "the node has none"
    for position, gpu in enumerate(faulty):
        if gpu >= count:
            yield Finding((*loc, position), f"there is no GPU {gpu}: {counted}.")
    for position in repeats(faulty):
        yield Finding((*loc, position), f"GPU {faulty[position]} is listed twice.")


def _none_left(draft: Draft) -> Iterator[Finding]:
    if draft.node_names == {}:
        yield Finding(("nodes",), "expected at least one node.")
    if draft.nodes and all(node.exclude for node in draft.nodes.values()):
        yield Finding(("nodes",), "every node is excluded.")
