"""All checks of a node, in the order in which they are shown; and what they look at, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from llmfleet.launch.change.desired import spanning_gpus, weights_path
from llmfleet.launch.doctor import files, gpus, machine, network, software
from llmfleet.launch.doctor.result import CheckResult
from llmfleet.launch.doctor.view import View
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.launch.phases.facts import wanted_ports
from llmfleet.launch.phases.weights import source_size
from llmfleet.launch.ray_serve.application import serve_llm_at
from llmfleet.launch.session import Session
from llmfleet.planner.plan import Instance

CHECKS: tuple[Callable[[View], CheckResult | None], ...] = (
    machine.python,
    machine.clock,
    gpus.gpus,
    gpus.gpu_memory,
    gpus.compute_mode,
    gpus.driver,
    software.engine,
    software.container,
    software.ray,
    software.ray_serve,
    software.router,
    files.weights,
    files.disk,
    network.address,
    network.interface,
    network.ports,
    network.proxies,
    machine.memory,
    machine.shared_memory,
    machine.open_files,
    machine.at_boot,
)


def node_results(view: View) -> tuple[CheckResult, ...]:
    """A check that has nothing to look at on the node says nothing."""
    return tuple(result for check in CHECKS if (result := check(view)) is not None)


def views(session: Session, nodes: Sequence[str], instances: Sequence[Instance], *, planned: bool = True) -> list[View]:
    """Of nodes whose facts are known. Not `planned`: nothing is asked of them but what every node should have."""
    plan = session.fleet.plan
    together = {name for i in instances if i.spans_nodes for name in i.nodes}
    in_ray = spanning_gpus(instances)
    if session.on_ray_serve:
        in_ray = {name: () for i in instances for name in i.nodes}
    cluster = sorted({plan.head, *in_ray} & set(session.facts)) if in_ray else []
    names = {session.addresses[n]: n for n in session.facts if n in session.addresses}
    ray = {name: session.facts[name].versions.get("ray") for name in cluster}
    pythons = {name: session.facts[name].engine_python for name in cluster}
    mtus = _mtus(session.facts, together)
    sizes = _source_sizes(session, instances)
    return [
        View(
            node=session.node(name),
            facts=session.facts[name],
            folder=session.folders[name],
            address=session.addresses[name],
            instances=tuple(i for i in instances if name in i.nodes),
            ports=frozenset(wanted_ports(session, name, instances) if planned else ()),
            head=plan.head if planned else "",
            routers=plan.router.nodes if planned else (),
            needs_ray=name in cluster,
            on_serve=session.on_ray_serve and name in cluster,
            serve_llm=session.on_ray_serve and name in cluster and serve_llm_at(session, name),
            source_bytes=_copied(session, name, instances, sizes),
            names=names,
            ray=ray,
            pythons=pythons,
            vllm=_vllm_beside(session.facts, name, instances),
            mtus=mtus,
        )
        for name in nodes
    ]


def _vllm_beside(facts: Mapping[str, NodeFacts], node: str, instances: Iterable[Instance]) -> dict[str, str | None]:
    """Of the nodes that share an instance with this one."""
    beside = {n for i in instances if i.spans_nodes and node in i.nodes for n in i.nodes} & set(facts)
    return {n: software.installed_version(facts[n], "vllm") for n in sorted(beside)}


def _mtus(facts: Mapping[str, NodeFacts], nodes: Iterable[str]) -> dict[str, int]:
    found = {n: facts[n].interfaces.get(facts[n].interface or "") for n in sorted(nodes) if n in facts}
    return {name: each.mtu for name, each in found.items() if each is not None and each.mtu is not None}


def _source_sizes(session: Session, instances: Iterable[Instance]) -> dict[str, int]:
    """As far as they are known. Raises InputError where this machine should have them and does not."""
    sources = {i.weights_source for i in instances if i.weights_source}
    sizes = {source: source_size(session, source) for source in sources}
    return {source: size for source, size in sizes.items() if size is not None}


def _copied(session: Session, node: str, instances: Iterable[Instance], sizes: Mapping[str, int]) -> dict[str, int]:
    folder = session.folders[node]
    mine = ((i, i.weights_source or "") for i in instances if node in i.nodes)
    return {weights_path(i, folder): sizes[source] for i, source in mine if source in sizes}
