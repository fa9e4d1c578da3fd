"""What the types of single services cannot see: names given twice, references to nothing, lengths that contradict."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from itertools import islice, pairwise

from llmfleet.planner.inventory.asked import Lengths, Traffic
from llmfleet.planner.inventory.draft import Draft
from llmfleet.planner.inventory.findings import Finding, nearest, repeats
from llmfleet.planner.inventory.kept import kept_off, meant, rule
from llmfleet.planner.inventory.model import Placement, Service
from llmfleet.planner.inventory.ranges import expand
from llmfleet.planner.inventory.shapes import shown
from llmfleet.planner.inventory.source import Loc


def service_findings(draft: Draft, *, may_lack: bool = False) -> Iterator[Finding]:
    """`may_lack`: no service at all is fine, for commands that only want to know the nodes."""
    if draft.service_names == {} and not may_lack:
        yield Finding(("services",), "expected at least one service.")
    yield from _names_twice(draft)
    for index, service in draft.services.items():
        loc = ("services", index)
        yield from _precisions(service, loc)
        yield from _lengths(service, loc)
        yield from _fallback(draft, service, index)
        yield from _kept(draft, service, loc)
        for number, placement in enumerate(service.placement):
            yield from _placement(draft, placement, (*loc, "placement", number))
    yield from _cycles(draft)
    yield from _router(draft)


def _names_twice(draft: Draft) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, service in draft.services.items():
        if service.name in seen:
            message = f"the service {shown(service.name)} stands here a second time."
            yield Finding(("services", index, "name"), message, first=("services", seen[service.name], "name"))
        seen.setdefault(service.name, index)


def _precisions(service: Service, loc: Loc) -> Iterator[Finding]:
    for position in repeats(service.precision):
        yield Finding((*loc, "precision", position), f"{service.precision[position]} is listed twice.")


def _lengths(service: Service, loc: Loc) -> Iterator[Finding]:
    if service.traffic:
        yield from _ordered(service.traffic.input, (*loc, "traffic", "input"))
        yield from _ordered(service.traffic.output, (*loc, "traffic", "output"))
        yield from _source(service.traffic, (*loc, "traffic"))
    long = service.long_context
    if long and long.max is not None and long.max <= long.over:
        yield Finding((*loc, "long_context", "max"), f"{long.max} tokens leave nothing for prompts over {long.over}.")


def _source(traffic: Traffic, loc: Loc) -> Iterator[Finding]:
    if traffic.trace is None and "rate" not in traffic.model_fields_set:
        yield Finding((*loc, "rate"), "this key is missing. Requests a second, on average; or name a trace.")
    if traffic.input.mean == 0:
        yield Finding((*loc, "input", "mean"), "a prompt has at least one token.")
    cells = traffic.histogram
    if cells is None:
        return
    if 0 in cells.input:
        yield Finding((*loc, "histogram", "input", cells.input.index(0)), "a prompt has at least one token.")
    here = (*loc, "histogram", "share")
    if len(cells.share) != len(cells.input) or any(len(row) != len(cells.output) for row in cells.share):
        wanted = f"{len(cells.input)} rows of {len(cells.output)} numbers"
        yield Finding(here, f"expected {wanted}: a row for each input, in it a number for each output.")
    elif not any(map(sum, cells.share)):
        yield Finding(here, "all cells are 0.")
    if traffic.trace is not None:
        yield Finding((*loc, "trace"), "a trace and a histogram exclude each other.", "Leave one of them out.")


def _ordered(lengths: Lengths, loc: Loc) -> Iterator[Finding]:
    """Percentiles rise, and the mean is no longer than the longest of them."""
    known = [(name, value) for name in ("p50", "p90", "p95", "p99") if (value := getattr(lengths, name)) is not None]
    for (low, shorter), (high, longer) in pairwise(known):
        if shorter > longer:
            yield Finding((*loc, high), f"{longer} is below {low}, {shorter}.")
    if lengths.p99 is not None and lengths.mean > lengths.p99:
        yield Finding((*loc, "p99"), f"{lengths.p99} is below mean, {lengths.mean}.")
    for position, (before, value) in enumerate(pairwise(lengths.quantiles), 1):
        if value < before:
            yield Finding((*loc, "quantiles", position), f"{value} is below the one before it, {before}.")


def _fallback(draft: Draft, service: Service, index: int) -> Iterator[Finding]:
    loc: Loc = ("services", index, "fallback")
    if service.fallback is None or draft.service_names is None:
        return
    at = draft.service_names.get(service.fallback)
    if at is None:
        hint = (
            nearest(service.fallback, draft.service_names) or f"Services: {', '.join(islice(draft.service_names, 10))}."
        )
        yield Finding(loc, f"{shown(service.fallback)} is no service of this file.", hint)
        return
    other = draft.services.get(at)
    judged = draft.sound("services", at, "task") and draft.sound("services", index, "task")
    if other and judged and other.task != service.task:
        yield Finding(loc, f"{other.name} has the task {other.task}, {service.name} the task {service.task}.")


def _cycles(draft: Draft) -> Iterator[Finding]:
    """Each cycle once, at the first of its services in the file that leads into it."""
    after = {service.name: service.fallback for service in draft.services.values()}
    places = draft.service_names or {}
    done: set[str | None] = {None}
    for start in after:
        chain: dict[str, None] = {}
        name: str | None = start
        while name in after and name not in done and name not in chain:
            chain[name] = None
            name = after[name]
        if name in chain:
            cycle = list(chain)[list(chain).index(name) :]
            yield Finding(("services", places.get(name, 0), "fallback"), f"falls back on itself: {_arrows(cycle)}.")
        done.update(chain)


def _arrows(cycle: list[str]) -> str:
    return " → ".join([*cycle[:10], *["…"] * (len(cycle) > 10), cycle[0]])


def _kept(draft: Draft, service: Service, loc: Loc) -> Iterator[Finding]:
    """Patterns that mean no node, and rules that leave none or that a placement breaks."""
    names = draft.node_names
    if names is None or not rule(service):
        return
    unknown = [*_unknown(names, service.nodes, (*loc, "nodes")), *_unknown(names, service.avoid, (*loc, "avoid"))]
    yield from unknown
    off = kept_off(service, names)
    if not unknown and all(name in off for name, entry in names.items() if entry is None or entry.written.gpus):
        yield Finding((*loc, "nodes" if service.nodes else "avoid"), "leaves the service no node with GPUs.")
    for number, placement in enumerate(service.placement):
        for name in off.intersection((*placement.nodes, *placement.each)):
            yield Finding((*loc, "placement", number), f"has the node {shown(name)}, against {rule(service)}.")


def _unknown(names: Collection[str], patterns: Iterable[str], loc: Loc) -> Iterator[Finding]:
    for position, pattern in enumerate(patterns):
        means = meant([pattern])
        stray = next((n for n in expand(pattern) if n not in names and not ("*" in n and any(map(means, names)))), None)
        if stray is not None:
            yield Finding((*loc, position), f"{shown(stray)} is no node of this file.", nearest(stray, names))


def _placement(draft: Draft, placement: Placement, loc: Loc) -> Iterator[Finding]:
    if bool(placement.nodes) == bool(placement.each):
        yield Finding(loc, "expected nodes that one instance spans, or each of some nodes: one of the two.")
    for position, name in enumerate(placement.nodes):
        yield from _placed(draft, name, (*loc, "nodes", position))
    for position, name in enumerate(placement.each):
        yield from _placed(draft, name, (*loc, "each", position))
    for position in repeats(placement.nodes):
        message = f"the node {shown(placement.nodes[position])} is listed twice."
        yield Finding((*loc, "nodes", position), message)
    stages = placement.pp or max(1, len(placement.nodes))
    if placement.pp_partition is not None and len(placement.pp_partition) != stages:
        message = f"gives the layers of {len(placement.pp_partition)} stages, but there are {stages}."
        yield Finding((*loc, "pp_partition"), message)
    if placement.part is not None and placement.tp * stages > 1:
        yield Finding((*loc, "part"), "a part of a GPU has no tp or pp above 1, and one node.")


def _placed(draft: Draft, name: str, loc: Loc) -> Iterator[Finding]:
    yield from _usable(draft, name, loc)
    entry = (draft.node_names or {}).get(name)
    if entry and entry.written.gpus is None and draft.sound("nodes", entry.index, "gpus") and not entry.written.exclude:
        yield Finding(loc, f"the node {shown(name)} has no GPUs.", "Give it gpus, or CPU slots such as 2 x CPU-4G.")


def _usable(draft: Draft, name: str, loc: Loc) -> Iterator[Finding]:
    if draft.node_names is None:
        return
    if name not in draft.node_names:
        hint = nearest(name, draft.node_names)
        yield Finding(loc, f"{shown(name)} is no node of this file.", hint)
    elif (entry := draft.node_names[name]) and entry.written.exclude:
        yield Finding(loc, f"the node {shown(name)} is excluded.")


def _router(draft: Draft) -> Iterator[Finding]:
    router = draft.router
    if router.port == router.admin_port:
        yield Finding(("router", "admin_port"), f"{router.admin_port} is the port for clients already.")
    if router.node is not None:
        yield from _usable(draft, router.node, ("router", "node"))
    for n, name in enumerate(router.also):
        loc = ("router", "also", n)
        yield from _usable(draft, name, loc)
        if name == router.node or name in router.also[:n]:
            yield Finding(loc, f"the node {shown(name)} is named twice.")
    if router.also and router.bind is not None and not _is_every(router.bind):
        message = f"{router.bind} is an address of one node, and routers run on {len(router.also) + 1}."
        yield Finding(("router", "bind"), message, "Leave it out: each listens on its node's own address.")


def _is_every(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False
