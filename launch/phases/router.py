"""The routers, on the head node and where else one runs: files, changed only where they differ, and processes."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml

from llmfleet.launch.change.steps import Step
from llmfleet.launch.engine_key import engine_key
from llmfleet.launch.events import Note
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.processes import last_line
from llmfleet.launch.phases.at_boot import in_unit
from llmfleet.launch.ray_serve.application import router_files_by_kind
from llmfleet.launch.router.clients import ClientKey, masked, read_keys
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.keepalived import keepalived_files
from llmfleet.launch.router.process import HOT_RESTART, router_process
from llmfleet.launch.router.tls import Certificate, read_certificate
from llmfleet.launch.router.validate import merged_static, validate_command
from llmfleet.launch.router.xds import from_yaml, to_yaml
from llmfleet.launch.session import Session
from llmfleet.planner.errors import CommandError
from llmfleet.planner.plan import Plan
from llmfleet.planner.ports import address_of

CHECKED = "checked.yaml"
CLUSTERS = "xds/cds.yaml"
SETTLE_S = 1.0  # the router reads a file within tens of milliseconds of the rename
PROCESS_NAME = "router"
STOP_GRACE_S = 10.0
AGAIN = "`llmfleet router reload` tells it when it is back"


def desired_files(
    session: Session, node: str, plan: Plan | None = None, leaving: Collection[str] = ()
) -> Mapping[str, str]:
    """The files of a node's router by path below its folder. Instances on nodes out of rotation, and those that are
    `leaving`, are drained, not removed: their streams go on, and undraining is a change of one word.

    `plan`: what is to be served now, where that is not the fleet's plan, see launch/change/roll_router.py.
    """
    fleet, hosts = session.fleet, node_addresses(session)
    keys, tls = client_keys(fleet), certificate(fleet)
    shared = keepalived_files(fleet.plan, node, hosts, session.node(node).runtime.interface)
    if session.on_ray_serve:
        return {**router_files_by_kind(session, node, keys=keys, certificate=tls), **shared}
    plan = plan or fleet.plan
    out = session.store.value.out_of_rotation
    files = router_files(
        plan,
        hosts=hosts,
        folder=session.folders[node].router,
        node=node,
        draining=frozenset(i.id for i in plan.instances if out & set(i.nodes) or i.id in leaving),
        keys=keys,
        certificate=tls,
        engine_key=engine_key(fleet),
    )
    return {**files, **shared}


def reached_routers(session: Session) -> list[str]:
    """Nodes of routers that are connected: the head, which everything needs, and as many of the others as answer."""
    return [node for node in session.fleet.plan.router.nodes if node in session.transports]


def connect_others(session: Session) -> None:
    """What a router that is away does not hear it goes on without: clients may still reach it."""
    plan = session.fleet.plan
    session.connect([session.node(name) for name in plan.router.also])
    for name in plan.router.also:
        if name in session.lost:
            what = f"its router keeps the old configuration, {AGAIN}: {session.lost[name].message}"
            session.note(what, node=name, level="warning")


def certificate(fleet: Fleet) -> Certificate | None:
    """As the files on this machine have it; None for plain HTTP. Raises InputError."""
    wanted = fleet.inventory.router.tls
    if wanted is None:
        return None
    folder = fleet.folder.parent
    return read_certificate(folder / Path(wanted.certificate).expanduser(), folder / Path(wanted.key).expanduser())


def client_keys(fleet: Fleet) -> tuple[ClientKey, ...] | None:
    """As the file on this machine has them; None where anybody may ask. Raises InputError."""
    place = fleet.inventory.router.keys_file
    if place is None:
        return None
    path = fleet.folder.parent / Path(place).expanduser()
    keys = read_keys(path)
    if path.stat().st_mode & 0o077:
        fleet.observe(Note("", f"others on this machine can read the keys in {path}: chmod 600 {path}", "warning"))
    return keys


def node_addresses(session: Session) -> dict[str, str]:
    """Every planned node's address; of those not reached, what the inventory says."""
    known = {n.name: address_of(n) for n in session.fleet.planned_nodes()}
    return {**known, **session.addresses}


def desired_processes(session: Session) -> tuple[Process, ...]:
    return tuple(_process(session, node) for node in reached_routers(session))


def _process(session: Session, node: str) -> Process:
    folder = session.folders[node]
    made = router_process(session.fleet.plan, session.node(node), folder.router, folder.script(HOT_RESTART))
    return in_unit(session, made)


def file_steps(session: Session, plan: Plan | None = None) -> list[Step]:
    """One for each router: what differs is validated as a whole, then renamed into place. `plan`: see desired_files."""
    return [_file_step(session, node, desired_files(session, node, plan)) for node in reached_routers(session)]


def _file_step(session: Session, node: str, wanted: Mapping[str, str]) -> Step:
    changed: list[str] = []

    def needed() -> bool:
        changed[:] = differing(session, node, wanted)
        return bool(changed)

    def apply() -> None:
        put_files(session, node, wanted, changed)

    return Step(node, "router configuration", needed, apply)


def put_files(session: Session, node: str, files: Mapping[str, str], changed: Sequence[str]) -> None:
    """In the order of router_files: clusters before the routes to them. Clusters that are no more go last, since
    until then the old routes lead to them."""
    transport, folder = session.transports[node], session.folders[node].router
    validate(session, node, files)
    found = transport.get(f"{folder}/{CLUSTERS}") if CLUSTERS in changed else None
    both = with_old_clusters(found.decode(errors="replace"), files[CLUSTERS]) if found else None
    for name in changed:
        text = both if name == CLUSTERS and both else files[name]
        transport.put(text.encode(), f"{folder}/{name}")
    if both:
        time.sleep(SETTLE_S)
        transport.put(files[CLUSTERS].encode(), f"{folder}/{CLUSTERS}")


def with_old_clusters(old: str, new: str) -> str | None:
    """The new clusters and those of the old that they lack; None where they lack none."""
    try:
        before = from_yaml(old)["resources"]
        body = from_yaml(new)
        names = {cluster["name"] for cluster in body["resources"]}
        gone = [cluster for cluster in before if cluster["name"] not in names]
    except (yaml.YAMLError, KeyError, TypeError):  # what is there is not ours
        return None
    return to_yaml({**body, "resources": [*body["resources"], *gone]}) if gone else None


def differing(session: Session, node: str, files: Mapping[str, str]) -> list[str]:
    """Files whose content on the node is not the wanted one, by one sha256sum over all of them."""
    folder = session.folders[node].router
    answer = session.transports[node].run(("sha256sum", "--", *(f"{folder}/{name}" for name in files)))
    seen = {path: digest for digest, _, path in (line.partition("  ") for line in answer.stdout.splitlines())}
    return [n for n, text in files.items() if seen.get(f"{folder}/{n}") != hashlib.sha256(text.encode()).hexdigest()]


def validate(session: Session, node: str, files: Mapping[str, str]) -> None:
    """Raises CommandError with Envoy's own words where it would not take the files; nothing was changed then."""
    transport, path = session.transports[node], f"{session.folders[node].router}/{CHECKED}"
    transport.put(merged_static(masked(files, secrets.token_bytes(16))).encode(), path)
    answer = transport.run(validate_command(session.node(node), path), timeout=60)
    if not answer.ok:
        raise CommandError(
            f"Envoy does not accept the router configuration: {last_line(answer)}",
            node=node,
            hint="`llmfleet router show` prints it. The running router keeps its old configuration.",
        )
