"""The network between nodes: the address, the way to the others, ports, and proxies that stand in it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from llmfleet.launch.doctor.result import Check, CheckResult
from llmfleet.launch.doctor.view import View

ADDRESS = Check("address", "engines, Ray and the router listen on the node's own address")
INTERFACE = Check("interface", "NCCL, gloo and Ray carry an instance over several nodes by one interface of each")
PORTS = Check("ports", "the plan gives every process its port")
PROXY = Check("proxy", "libraries send HTTP and gRPC between nodes through a proxy that the environment names")


def address(view: View) -> CheckResult | None:
    if view.facts.binds is None:
        return None
    if not view.facts.binds:
        say = ADDRESS.fail if view.instances or view.has_router else ADDRESS.warn
        return say(
            f"it has no interface with the address {view.address}, by which the others reach it",
            "Set `host:` to an address of the node itself; `ip -br address` there lists them.",
        )
    return ADDRESS.ok(f"{view.address}{f' on {view.facts.interface}' if view.facts.interface else ''}")


def interface(view: View) -> CheckResult | None:
    """The named one is there; the way to every other node of an instance leads over the node's own address."""
    named, facts = view.node.runtime.interface, view.facts
    if named and named not in facts.interfaces:
        there = ", ".join(sorted(facts.interfaces))
        return INTERFACE.fail(f"it has no interface {named}; it has {there}", "Mend `runtime: {interface: …}`.")
    if not view.spanning:
        return None
    lost = sorted(view.names.get(peer, peer) for peer, own in facts.routes.items() if own is None)
    if lost:
        return INTERFACE.fail(f"it has no route to {', '.join(lost)}", "Use addresses of one network in `host:`.")
    other = {view.names.get(peer, peer): own for peer, own in facts.routes.items() if own != view.address}
    if other:
        shown = ", ".join(f"{name} from {own}" for name, own in sorted(other.items()))
        return INTERFACE.warn(
            f"it reaches {shown}, not from {view.address}",
            "Use the addresses of one network in `host:`, and name its interface: `runtime: {interface: …}`.",
        )
    return _mtu(view, named or facts.interface)


def _mtu(view: View, name: str | None) -> CheckResult:
    own = view.mtus.get(view.node.name)
    different = sorted(f"{node} {mtu}" for node, mtu in view.mtus.items() if mtu != own)
    if own is not None and different:
        return INTERFACE.warn(
            f"{name} has MTU {own}, elsewhere it differs: {', '.join(different)}",
            "Give all interfaces of one network the same MTU: large packets may be lost without a word.",
        )
    if name is None:
        return INTERFACE.warn(
            f"no interface with the address {view.address} was found", "Name it: `runtime: {interface: …}`."
        )
    return INTERFACE.ok(f"{name}, reaches {', '.join(sorted(view.names.get(p, p) for p in view.facts.routes))}")


def ports(view: View) -> CheckResult | None:
    """Several nodes may share a machine: a port that another node's process of ours holds is taken too."""
    if not view.ports:
        return None
    taken, ours = [], _in_containers(view)
    for port in view.facts.ports:
        ours_by_marker = (port.marker or "").startswith(f"{view.folder.root}/")
        if port.port in view.ports - ours and not ours_by_marker:
            who = f"{port.name} (process {port.pid})" if port.pid else "another user's process"
            taken.append(f"port {port.port} is taken by {who}")
    if taken:
        return PORTS.fail("; ".join(taken), "Stop it, or choose other ports: `engine_port:`, `router: {port: …}`.")
    return PORTS.ok(f"{len(view.ports)} free, or ours")


def _in_containers(view: View) -> set[int]:
    """Ports of our own containers, whose processes carry no marker: known by the supervisor that lives."""
    if view.node.runtime.kind == "process":
        return set()
    alive = {p.name for p in view.facts.processes if p.alive}
    return {i.port for i in view.first_of if i.id in alive}


def proxies(view: View) -> CheckResult | None:
    """Our own requests never go through a proxy; what engines and Ray do is theirs."""
    if not view.facts.proxies:
        return None
    caught = sorted(a for a in {view.address, *view.names} if not spared(a, view.facts.no_proxy))
    if not caught:
        return PROXY.ok(f"{', '.join(view.facts.proxies)} set, no_proxy spares every node")
    return PROXY.warn(
        f"{', '.join(view.facts.proxies)} set, and no_proxy does not spare {_some(caught)}",
        f"Set `runtime: {{env: {{NO_PROXY: …, no_proxy: …}}}}` with all of: {','.join(caught[:8])}",
    )


def spared(host: str, no_proxy: str) -> bool:
    """Whether no_proxy covers the host: by name, by domain, by network, or all."""
    return any(_covers(word.strip().lower(), host.lower()) for word in no_proxy.split(",") if word.strip())


def _covers(word: str, host: str) -> bool:
    if word == "*" or host == word or host.endswith(f".{word.lstrip('.')}"):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
