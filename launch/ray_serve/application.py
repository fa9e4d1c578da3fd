"""The application that Ray Serve runs: as the plan and what is drained want it, and as Serve says that it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmfleet.launch.change.steps import Step
from llmfleet.launch.export.kinds import Kind, kinds_of
from llmfleet.launch.export.serve_app import OWN_PLACES, in_serve_llm, serve_config
from llmfleet.launch.export.serve_front import by_kind, serve_router_files
from llmfleet.launch.nodes.fetch import fetch_on_head
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.processes import last_line
from llmfleet.launch.ray_serve.members import (
    KEEPER_PORT,
    application_process,
    config_path,
    leave_command,
    ray_processes,
    working,
)
from llmfleet.launch.router.xds import to_yaml
from llmfleet.launch.session import Session
from llmfleet.planner.errors import CommandError, HealthError, InputError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Plan
from llmfleet.planner.ports import address_of

OK = 200
POLL_S = 1.0
LEAVE_WITHIN_S = 60.0
NOTE_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What Serve's controller said last. `replicas`: of each kind, state by node address."""

    status: str = "unknown"
    message: str = ""
    targets: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)  # kind → (address, state)
    messages: Mapping[str, str] = field(default_factory=dict)  # kind → what is wrong with it
    proxies: Mapping[str, str] = field(default_factory=dict)  # address → status
    nodes: frozenset[str] = frozenset()  # addresses of those that Ray has not given up

    @property
    def known(self) -> bool:
        """Whether Serve has been asked since what keeps the application started."""
        return self.status not in ("unknown", "NOT_STARTED")

    def at(self, address: str) -> int:
        """What is left on a node: replicas, and a proxy that still has requests."""
        states = [state for members in self.replicas.values() for where, state in members if where == address]
        return len(states) + (address in self.proxies)


def kinds_planned(session: Session) -> tuple[Kind, ...]:
    """Raises InputError for what Serve cannot run."""
    fleet = session.fleet
    kinds = kinds_of(fleet.inventory, fleet.plan)
    boxed = sorted({n for k in kinds for i in k.instances for n in i.nodes if _contained(session.node(n))})
    if boxed:
        raise InputError(
            f"{', '.join(boxed)} run engines in containers; Ray Serve runs them in the nodes' own Python",
            hint="`runtime: {kind: process}` for these nodes, or `llmfleet up` without Ray Serve.",
        )
    return kinds


def serve_llm_at(session: Session, node: str) -> bool:
    """Whether Serve LLM is imported there: by replicas, and on the head, where Serve builds the application."""
    kinds = [kind for kind in kinds_planned(session) if in_serve_llm(kind)]
    return any(node == session.fleet.plan.head or node in i.nodes for kind in kinds for i in kind.instances)


def _contained(node: Node) -> bool:
    return node.runtime.kind in ("docker", "podman")


def kinds_in_rotation(session: Session) -> tuple[Kind, ...]:
    """Without what is drained, or on its way out."""
    out = session.store.value.out_of_rotation
    return working(kinds_planned(session), {n.name for n in session.fleet.inventory.nodes} - out)


def ray_of(session: Session, kinds: Iterable[Kind], node_of: Mapping[str, Node]) -> tuple[Process, ...]:
    return ray_processes(session.fleet.plan.head, kinds, node_of, session.folders, session.addresses)


def config_text(session: Session, kinds: tuple[Kind, ...]) -> str:
    """`kinds`: with the instances that may run now."""
    present = {kind.name: len(kind.instances) for kind in kinds}
    return to_yaml(serve_config(session.fleet.plan, kinds_planned(session), OWN_PLACES, present))


def wanted_application(session: Session, kinds: tuple[Kind, ...]) -> Process:
    head = session.fleet.plan.head
    text = config_text(session, kinds)
    return application_process(session.node(head), session.folders[head], session.addresses[head], text)


def config_step(session: Session, kinds: tuple[Kind, ...]) -> Step:
    head = session.fleet.plan.head
    transport, path, body = session.transports[head], config_path(session.folders[head]), config_text(session, kinds)
    return Step(
        head,
        "what Ray Serve is to run",
        needed=lambda: transport.get(path) != body.encode(),
        apply=lambda: transport.put(body.encode(), path),
    )


def leave_step(session: Session, node: str) -> Step:
    """Ray is told first: of replicas that are too many, Serve then stops those on the node that leaves."""
    head = session.fleet.plan.head
    words = (session.node(head), session.folders[head], session.addresses[head], address_at(session, node))

    def apply() -> None:
        done = session.transports[head].run(leave_command(*words), timeout=LEAVE_WITHIN_S)
        if not done.ok:
            raise CommandError(f"Ray was not told that {node} leaves: {last_line(done)}", node=head)

    return Step(head, f"tell Ray that {node} leaves", needed=lambda: True, apply=apply)


def plan_by_kind(session: Session) -> Plan:
    """As the router sees it: one instance a kind."""
    return by_kind(session.fleet.plan, kinds_planned(session))


def router_files_by_kind(session: Session, node: str, **options: Any) -> Mapping[str, str]:
    """Of the router on a node. `options`: keys and certificate, see router_files. A kind that has nothing left drains;
    the others have the weight of what is left of them."""
    plan, kinds = session.fleet.plan, kinds_planned(session)
    left = {kind.name: kind for kind in kinds_in_rotation(session)}
    out = session.store.value.out_of_rotation
    carrying = {n for k in kinds for i in k.instances for n in i.nodes}  # see ray_serve.py of export
    proxies = [address_at(session, n.name) for n in session.fleet.inventory.nodes if n.name in carrying - out]
    return serve_router_files(
        plan,
        [left.get(kind.name, kind) for kind in kinds],
        proxies,
        session.folders[node].router,
        hosts={n.name: address_at(session, n.name) for n in session.fleet.planned_nodes()},
        rag=serve_config(plan, kinds, OWN_PLACES)["applications"][0]["args"]["rag"] is not None,
        node=node,
        draining=frozenset(kind.name for kind in kinds if kind.name not in left),
        **options,
    )


def address_at(session: Session, node: str) -> str:
    return session.addresses.get(node, address_of(session.node(node)))


def look(session: Session) -> Seen | None:
    """None where the application's process does not answer."""
    page = fetch_on_head(session, f"http://127.0.0.1:{KEEPER_PORT}/status")
    try:
        return parse_seen(page.body) if page.status == OK else None
    except (ValueError, KeyError, TypeError):
        return None


def parse_seen(text: str) -> Seen:
    body = json.loads(text)
    kinds = body["kinds"]
    return Seen(
        body["status"],
        body["message"],
        {name: kind["target"] for name, kind in kinds.items()},
        {name: tuple((r["ip"], r["state"]) for r in kind["replicas"]) for name, kind in kinds.items()},
        {name: kind["message"] for name, kind in kinds.items() if kind["status"] != "HEALTHY"},
        body["proxies"],
        frozenset(body.get("nodes", ())),  # an older keeper does not tell
    )


def wait_left(session: Session, node: str, *, timeout_s: float, force: bool, hint: str) -> None:
    """Until Serve has nothing on the node any more. Raises HealthError when that takes too long, unless forced."""
    address = address_at(session, node)
    begun = told = time.monotonic()
    while (seen := look(session)) is None or not seen.known or seen.at(address):
        waited = time.monotonic() - begun
        what = f"Ray Serve has not left {node} after {waited:.0f} s"
        if waited > timeout_s and force:
            session.note(f"{what}: cutting off what still runs there", level="warning")
            return
        if waited > timeout_s:
            raise HealthError(what, node=node, hint=hint)
        if time.monotonic() - told >= NOTE_EVERY_S:
            told = time.monotonic()
            session.note(f"requests on {node} are finishing ({waited:.0f} s)")
        time.sleep(POLL_S)
