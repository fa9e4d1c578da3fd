"""One question to each node, and what it answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from llmfleet.launch.change.desired import spanning_gpus, weights_path
from llmfleet.launch.commands.ray import HEAD_PORTS, PORT, WORKER_PORTS, in_ray
from llmfleet.launch.commands.vllm import rank_ports
from llmfleet.launch.export.serve_app import HTTP_PORT
from llmfleet.launch.export.serve_front import FIRST_HOP
from llmfleet.launch.nodes.facts import NodeFacts, facts_command, facts_request, facts_script, parse_facts
from llmfleet.launch.pool import on_each, raise_failures
from llmfleet.launch.ray_serve.application import kinds_planned, serve_llm_at
from llmfleet.launch.ray_serve.members import KEEPER_PORT, MODULES, OF_SERVE_LLM
from llmfleet.launch.router.clusters import is_every
from llmfleet.launch.session import Session
from llmfleet.planner.errors import CommandError
from llmfleet.planner.inventory.model import Runtime
from llmfleet.planner.plan import Instance, Plan

TIMEOUT_S = 60.0
NOT_FOUND = 127


def gather(session: Session, nodes: Sequence[str], instances: Sequence[Instance]) -> None:
    """Fills session.facts. Raises NodesError naming every node that could not answer, and why."""
    outcomes = on_each(nodes, lambda node: ask(session, node, instances))
    raise_failures("facts", outcomes)
    session.facts.update({o.item: o.value for o in outcomes if o.value is not None})


def ask(session: Session, node: str, instances: Sequence[Instance]) -> NodeFacts:
    runtime, folder = session.node(node).runtime, session.folders[node]
    request = facts_request(
        python=runtime.python,
        host=session.addresses[node],
        paths=[folder.root],
        models=sorted({weights_path(i, folder) for i in instances if node in i.nodes}),
        ports=wanted_ports(session, node, instances),
        folder=folder.root,
        peers=sorted(peers(session, node, instances)),
        runtime=runtime.kind if runtime.kind != "process" else None,
        images=images(runtime, [i for i in instances if i.nodes[0] == node]),
        imports=serve_modules(session, node, instances),
        boot=runtime.uses_systemd,
    )
    asked = time.time()
    answer = session.transports[node].run(
        facts_command(runtime.python, request), stdin=facts_script(), timeout=TIMEOUT_S
    )
    answered = time.time()
    if answer.exit_code == NOT_FOUND:
        raise CommandError(
            f"there is no Python at {runtime.python}",
            node=node,
            hint="Set `runtime: {python: …}` to one that is there.",
        )
    try:
        facts = parse_facts(answer.stdout)
        return replace(facts, clock_skew_s=clock_skew(facts.epoch, asked, answered))
    except ValueError:
        said = (answer.stderr.strip() or answer.stdout.strip() or "nothing").splitlines()[-1]
        raise CommandError(
            f"asked for its facts, the node said: {said[:200]}", node=node, hint=f"Does {runtime.python} work there?"
        ) from None


def clock_skew(epoch: float, asked: float, answered: float) -> float:
    """Seconds that a clock is ahead for certain, negative for behind, when it was read between the two moments."""
    return min(0.0, epoch - asked) + max(0.0, epoch - answered)


def images(runtime: Runtime, instances: Iterable[Instance]) -> list[str]:
    """That the node's containers are made from."""
    if runtime.kind == "process":
        return []
    return sorted({image for i in instances if (image := runtime.image or i.image)})


def serve_modules(session: Session, node: str, instances: Iterable[Instance]) -> tuple[str, ...]:
    """What Ray Serve and our own files there import in the node's Python."""
    head, mine = node == session.fleet.plan.head, any(node in i.nodes for i in instances)
    if not (session.on_ray_serve and (head or mine)):
        return ()
    return (*MODULES, *(OF_SERVE_LLM if serve_llm_at(session, node) else ()))


def peers(session: Session, node: str, instances: Iterable[Instance]) -> set[str]:
    """Addresses of the nodes that this one talks to: those it shares an instance with, and the head."""
    together = {name for i in instances if i.spans_nodes and node in i.nodes for name in i.nodes}
    if together:
        together.add(session.fleet.plan.head)
    return {session.addresses[name] for name in together - {node} if name in session.addresses}


def wanted_ports(session: Session, node: str, instances: Iterable[Instance]) -> dict[int, str]:
    """Ports that must be free on the node, or held by ourselves, each with the address that is listened on; Ray's on
    all, as it pleases."""
    plan, own = session.fleet.plan, session.addresses[node]
    if session.on_ray_serve:
        return _serve_ports(session, node, instances)
    mine = [i for i in instances if i.nodes[0] == node]
    ports = {i.port: own for i in mine}
    ports |= {port: own for i in mine if i.spans_nodes and not in_ray(i) for port in rank_ports(i)}
    spanning = spanning_gpus(instances)
    if node in plan.router.nodes:
        ports |= {plan.router.port: _router_bind(plan, node, own), plan.router.admin_port: "127.0.0.1"}
    if spanning and node == plan.head:
        ports |= dict.fromkeys({PORT, *_fixed(HEAD_PORTS)}, "")
    if node in spanning:
        ports |= dict.fromkeys(_fixed(WORKER_PORTS), "")
    return ports


def _serve_ports(session: Session, node: str, instances: Iterable[Instance]) -> dict[int, str]:
    """Ray's and Serve's, on all addresses; on the head those of the router and of what keeps the application."""
    plan, head = session.fleet.plan, node == session.fleet.plan.head
    rays = {PORT, *_fixed(HEAD_PORTS)} if head else _fixed(WORKER_PORTS)
    ports = dict.fromkeys({*rays, HTTP_PORT}, "") if head or any(node in i.nodes for i in instances) else {}
    if head:
        ports[KEEPER_PORT] = "127.0.0.1"
    if node in plan.router.nodes:
        hops = range(FIRST_HOP, FIRST_HOP + len(kinds_planned(session)))
        ports |= dict.fromkeys({*hops, plan.router.admin_port}, "127.0.0.1")
        ports[plan.router.port] = _router_bind(plan, node, session.addresses[node])
    return ports


def _router_bind(plan: Plan, node: str, own: str) -> str:
    """As planned; each further router is at its own node's address, or at every address like the first."""
    return plan.router.bind if node == plan.router.node or is_every(plan.router.bind) else own


def _fixed(ports: dict[str, int]) -> set[int]:
    return {port for flag, port in ports.items() if "worker" not in flag}
