"""What is there, beside what the plan says should be there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from llmfleet.launch.change import desired
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.engine_load import RouterLoad, address, loads_at
from llmfleet.launch.nodes.live import probe_nodes
from llmfleet.launch.nodes.probe import NodeProbe
from llmfleet.launch.phases import connect, ray, router
from llmfleet.launch.phases.verify import own_url, router_url
from llmfleet.launch.ray_serve import status as serve_status
from llmfleet.launch.ray_serve.application import Seen, address_at
from llmfleet.launch.results import FleetStatus, InstanceStatus, NodeStatus, RayStatus, RouterStatus
from llmfleet.launch.router.clusters import is_ip
from llmfleet.launch.session import Session, open_session
from llmfleet.planner.errors import FleetError, TransportError
from llmfleet.planner.plan import Instance

LIVING = {"starting": "starting", "healthy": "healthy", "unhealthy": "unhealthy", "stopping": "draining"}


def status(fleet: Fleet) -> FleetStatus:
    """Never raises for a node that is away: it is shown as unreachable. Changes nothing, takes no lock."""
    with open_session(fleet) as session:
        session.connect(fleet.planned_nodes())
        return look(session)


def look(session: Session) -> FleetStatus:
    """Over the connections that there are; what has none is unreachable."""
    fleet, nodes = session.fleet, session.fleet.planned_nodes()
    adopt(session)
    resolve(session)
    probes = probe_nodes(session, [n.name for n in session.reached(nodes)])
    on_serve = serve_status.ask(session) if session.on_ray_serve else None
    instances = instances_seen(session, probes, on_serve)
    node_states = tuple(node_status(session, n.name, instances, probes) for n in nodes)
    loads = {node: loads_seen(session, node, probes) for node in fleet.plan.router.nodes}
    routers = tuple(router_status(session, node, probes, loads[node]) for node in loads)
    ray_state = ray_status(session, probes)
    problems = find_problems(session, node_states, instances, routers, ray_state)
    problems += tuple(p for node in loads for p in unreached(session, node, instances, loads[node]))
    return FleetStatus(
        fleet.inventory.cluster,
        fleet.plan.hash,
        not problems,
        node_states,
        instances,
        together(session, routers),
        ray_state,
        problems,
        routers,
        served_nodes(session, routers[0], on_serve),
    )


def served_nodes(session: Session, router_state: RouterStatus, on_serve: Seen | None) -> tuple[str, ...]:
    """Nodes of engines that pass the router's own health check. Where Ray Serve runs them the router knows kinds only:
    nodes that Ray has not given up, on which Serve starts itself what died."""
    if session.on_ray_serve:
        alive = on_serve.nodes if on_serve else frozenset()
        return tuple(n.name for n in session.fleet.planned_nodes() if address_at(session, n.name) in alive)
    return tuple(sorted({n for i in session.fleet.plan.instances if i.id in router_state.reached for n in i.nodes}))


def instances_seen(
    session: Session, probes: Mapping[str, NodeProbe], on_serve: Seen | None
) -> tuple[InstanceStatus, ...]:
    if session.on_ray_serve:
        return serve_status.instances_seen(session, on_serve)
    return tuple(instance_status(session, i, probes) for i in session.fleet.plan.instances)


def adopt(session: Session) -> None:
    try:
        session.adopt_state_from_head()
    except TransportError as error:
        session.lose(session.fleet.plan.head, error)
    except FleetError as error:
        session.note(error.message, node=session.fleet.plan.head, level="warning")
    if (broken := session.store.broken) is not None:
        session.note(f"{broken.message}; what is drained is not known. {broken.hint}", level="warning")
        session.store.forget_broken()


def resolve(session: Session) -> None:
    """Addresses as the head sees them; where it is away, as the inventory writes them."""
    if session.fleet.plan.head not in session.transports:
        return
    try:
        nodes = [n for n in session.fleet.planned_nodes() if not is_ip(session.addresses.get(n.name, ""))]
        connect.resolve_addresses(session, nodes)
    except FleetError as error:
        session.note(error.message, node=error.node, level="warning")


def instance_status(session: Session, instance: Instance, probes: Mapping[str, NodeProbe]) -> InstanceStatus:
    first = instance.nodes[0]
    url = f"http://{address(session, instance)}"
    away = [n for n in instance.nodes if n not in probes]
    common = (instance.id, instance.service, instance.nodes, instance.gpus)
    if first in away:
        return InstanceStatus(*common, "unhealthy", url, reason=_away(session, away))
    process = probes[first].processes.get(instance.id)
    metrics = probes[first].engines.get(instance.id)
    state = LIVING.get(process.state, "stopped") if process else "stopped"
    out = session.store.value.out_of_rotation & set(instance.nodes)
    if state in ("starting", "healthy") and out & set(session.store.value.draining):
        state = "draining"
    reason = process.reason if process else "not started"
    if away:
        reason = _away(session, away)
    elif state == "stopped" and out:
        reason = f"{', '.join(sorted(out))} drained"
    return InstanceStatus(
        *common,
        state,  # type: ignore[arg-type]  # LIVING's values are the states
        url,
        running=metrics.running if metrics else None,
        waiting=metrics.waiting if metrics else None,
        kv_usage=metrics.kv_usage if metrics else None,
        prefix_hit_rate=metrics.prefix_hit_rate if metrics else None,
        kv_tokens=metrics.kv_tokens if metrics else None,
        prompt_tokens=metrics.prompt_tokens if metrics else None,
        generated_tokens=metrics.generated_tokens if metrics else None,
        restarts=process.restarts if process else 0,
        reason="" if state == "healthy" and not away else reason,
    )


def _away(session: Session, nodes: list[str]) -> str:
    """Nobody tried to reach a node that the plan has and the inventory no longer does."""
    gone = [n for n in nodes if n not in session.lost]
    return f"{', '.join(gone)} no longer in the inventory" if gone else f"{', '.join(nodes)} unreachable"


def node_status(
    session: Session, name: str, instances: tuple[InstanceStatus, ...], probes: Mapping[str, NodeProbe]
) -> NodeStatus:
    found = _node_state(session, name, instances)
    gpus = probes[name].gpus if name in probes else ()
    return replace(found, accelerators=session.node(name).gpus or "", gpus=gpus)


def _node_state(session: Session, name: str, instances: tuple[InstanceStatus, ...]) -> NodeStatus:
    state = session.store.value
    mine = [i for i in instances if name in i.nodes]
    ids = tuple(i.id for i in mine)
    host = session.node(name).host
    if name in state.drained:  # somebody may have switched it off since
        reason = f"unreachable: {session.lost[name].message}" if name in session.lost else ""
        return NodeStatus(name, host, "drained", ids, reason)
    if name in session.lost:
        return NodeStatus(name, host, "unreachable", ids, session.lost[name].message)
    bad = [i for i in mine if i.state != "healthy" and i.wanted]
    if bad:
        return NodeStatus(name, host, "degraded", ids, ", ".join(f"{i.id} is {i.state}" for i in bad))
    return NodeStatus(name, host, "ready", ids)


def loads_seen(session: Session, node: str, probes: Mapping[str, NodeProbe]) -> Mapping[str, RouterLoad] | None:
    process = probes.get(node, NodeProbe()).processes.get(router.PROCESS_NAME)
    if process is None or not process.alive:
        return None
    try:
        return loads_at(session, node)
    except FleetError as error:
        session.note(error.message, node=node, level="warning")
        return None


def together(session: Session, routers: tuple[RouterStatus, ...]) -> RouterStatus:
    """The first, at the address that clients use, with the requests of all."""
    requests: Counter[str] = Counter()
    active: Counter[str] = Counter()
    for one in routers:
        requests.update(one.requests)
        active.update(one.active)
    return replace(routers[0], address=router_url(session), requests=dict(requests), active=dict(active))


def router_status(
    session: Session, node: str, probes: Mapping[str, NodeProbe], loads: Mapping[str, RouterLoad] | None
) -> RouterStatus:
    url = own_url(session, node)
    if node not in probes:
        return RouterStatus(node, url, "unreachable", reason=f"{node} is unreachable")
    process = probes[node].processes.get(router.PROCESS_NAME)
    if process is None or not process.alive:
        return RouterStatus(node, url, "stopped", reason=process.reason if process else "not started")
    if loads is None or process.state != "healthy":
        return RouterStatus(node, url, "unhealthy", reason=process.reason or "its admin address does not answer")
    return RouterStatus(
        node,
        url,
        "healthy",
        requests={name: load.total for name, load in loads.items()},
        active={name: load.active for name, load in loads.items()},
        reached=tuple(sorted(name for name, load in loads.items() if not load.flags)),
    )


def ray_status(session: Session, probes: Mapping[str, NodeProbe]) -> RayStatus | None:
    """None where no instance runs in Ray."""
    plan = session.fleet.plan
    wanted = desired.active_instances(plan, [n for n in probes if n not in session.store.value.drained])
    node_of = {n: session.node(n) for n in probes}
    if plan.head not in probes:
        return None
    members = ray.members(session, wanted, (node_of, session.folders, session.addresses))
    processes = [p for p in members if p.kind != "rank"]
    if not processes:
        return None
    head = probes[plan.head].processes.get(processes[0].name)
    if head is None or not head.alive:
        return RayStatus(plan.head, (), "stopped", "not started")
    try:
        present = ray.ray_nodes(session, processes[0])
    except FleetError:
        present = None
    missing = {p.node for p in processes[1:]} - set(present or ())
    reason = (
        "the Ray head does not answer"
        if present is None
        else f"missing: {', '.join(sorted(missing))}"
        if missing
        else ""
    )
    return RayStatus(plan.head, present or (), "unhealthy" if reason else "healthy", reason)


def find_problems(
    session: Session,
    nodes: tuple[NodeStatus, ...],
    instances: tuple[InstanceStatus, ...],
    routers: tuple[RouterStatus, ...],
    ray_state: RayStatus | None,
) -> tuple[str, ...]:
    """Sentences; drained nodes and what they carry are as they should be, and what a node that is away carries is told
    with it."""
    out = session.store.value.out_of_rotation
    away = {n.name: n.reason for n in nodes if n.state == "unreachable"}
    bad = [i for i in instances if i.state != "healthy" and i.wanted and not out & set(i.nodes)]
    problems = []
    for name, reason in away.items():
        carried = [*["the router" for r in routers if r.node == name], *(i.id for i in bad if name in i.nodes)]
        with_it = f", and with it {', '.join(carried)}" if carried else ""
        problems.append(f"{name} is unreachable{with_it}: {reason}")
    alone = [i for i in bad if not away.keys() & set(i.nodes)]
    problems += [f"{i.id} is {i.state}" + (f": {i.reason}" if i.reason else "") for i in alone]
    problems += [
        f"{_called(session, r.node)} is {r.state}: {r.reason}"
        for r in routers
        if r.state != "healthy" and r.node not in away
    ]
    if ray_state is not None and ray_state.state != "healthy":
        problems.append(f"Ray is {ray_state.state}: {ray_state.reason}")
    planned = session.store.value.plan_hash
    if planned and planned != session.fleet.plan.hash:
        older = session.store.value.previous_plan == session.fleet.plan.hash
        does = "goes back to that, which was up before it" if older else "applies it"
        problems.append(
            f"up ran with plan {planned}, the plan is now {session.fleet.plan.hash}: `llmfleet up` {does}"
        )
    return tuple(problems)


def _called(session: Session, node: str) -> str:
    return f"the router on {node}" if session.fleet.plan.router.also else "the router"


def unreached(
    session: Session, node: str, instances: tuple[InstanceStatus, ...], loads: Mapping[str, RouterLoad] | None
) -> tuple[str, ...]:
    """Engines that are well and still get no requests, since the own health check of a node's router does not reach
    them."""
    out = session.store.value.out_of_rotation
    healthy = [i.id for i in instances if i.state == "healthy" and not out & set(i.nodes)]
    return tuple(
        f"{_called(session, node)} does not reach {name}: {', '.join(loads[name].flags)}"
        for name in healthy
        if loads is not None and name in loads and loads[name].flags
    )
