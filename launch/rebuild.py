"""The state read anew from the nodes themselves, for when it was lost, broken, or is not what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmfleet.launch.fleet import Fleet
from llmfleet.launch.nodes.probe import ProcessStatus
from llmfleet.launch.nodes.processes import ask_statuses
from llmfleet.launch.record.applied import Applied, kept, parse_applied, plans_folder
from llmfleet.launch.record.state import ProcessRecord, Runtime, State
from llmfleet.launch.session import Session
from llmfleet.launch.up import locked_session
from llmfleet.planner.errors import BrokenStateError, FleetError, InputError


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`found`: processes that run and were not, or not so, on record; `gone`: on record, and not there. `NODE/NAME`.

    `unreachable`: nodes whose records were left as they are.
    """

    found: tuple[str, ...]
    gone: tuple[str, ...]
    unreachable: tuple[str, ...]
    processes: int
    plan_hash: str
    changed: bool
    dry_run: bool = False


def rebuild(fleet: Fleet, *, dry_run: bool = False) -> Rebuilt:
    """What runs on the nodes is right, whatever was recorded. Of nodes that are away, the records stay.

    Raises LockedError where another run is at work, StateError for a state of a newer schema.
    """
    with locked_session(fleet, "state rebuild", lock=not dry_run) as session:
        return _rebuild(session, dry_run=dry_run)


def _rebuild(session: Session, *, dry_run: bool) -> Rebuilt:
    before = _known(session)
    broken = session.store.broken is not None
    session.store.forget_broken()
    _connect(session, before)
    after = _seen(session, before)
    old, new = before.processes, after.processes
    if not dry_run:
        session.store.adopt(replace(after, serial=before.serial + 1), keep=True)
        session.copy_state_to_head()
    return Rebuilt(
        found=tuple(sorted(k for k, r in new.items() if k not in old or old[k].digest != r.digest)),
        gone=tuple(sorted(set(old) - set(new))),
        unreachable=tuple(sorted(session.lost)),
        processes=len(new),
        plan_hash=after.plan_hash,
        changed=broken or after != before,
        dry_run=dry_run,
    )


def _known(session: Session) -> State:
    """What there is to begin with: the state here, and that of the head where it is one."""
    head = session.fleet.plan.head
    session.connect([session.fleet.inventory.node(head)])
    if head in session.transports:
        session.lock_head()
    try:
        session.adopt_state_from_head()
        return session.store.value
    except BrokenStateError as error:
        session.note(error.message, level="warning")
        return State(session.fleet.inventory.cluster)


def _connect(session: Session, before: State) -> None:
    """Every node of the inventory, and every other that is on record; none that is excluded."""
    names = {n.name for n in session.fleet.inventory.nodes}
    others = [before.node(name) for name in before.nodes if name not in names]
    session.connect([n for n in (*session.fleet.inventory.nodes, *others) if not n.exclude])
    for node, error in sorted(session.lost.items()):
        session.note(f"its records stay as they are, it could not be reached: {error.message}", node=node)


def _seen(session: Session, before: State) -> State:
    plans = _plans(session)
    records = {k: r for k, r in before.processes.items() if r.node not in session.transports}
    nodes = dict(before.nodes)
    for outcome in ask_statuses(session, sorted(session.transports)):
        node = outcome.item
        if outcome.error is not None:
            session.lose(node, outcome.error)
            records |= {k: r for k, r in before.processes.items() if r.node == node}
            continue
        running = {name: s for name, s in (outcome.value or {}).items() if s.alive}
        records |= {f"{node}/{name}": _record(node, s, before, plans) for name, s in running.items()}
        if running or node in before.nodes:
            nodes[node] = session.node(node).model_dump(mode="json")
    newest = next(iter(plans), "")
    kinds = {r.kind for r in records.values()}
    runtime: Runtime = "ray-serve" if "application" in kinds else "engines" if "engine" in kinds else before.runtime
    return replace(
        before, nodes=nodes, processes=records, head=session.fleet.plan.head, plan_hash=before.plan_hash or newest,
        runtime=runtime,
    )  # fmt: skip


def _record(node: str, status: ProcessStatus, before: State, plans: Mapping[str, Applied]) -> ProcessRecord:
    digest = status.digest or ""
    old = before.processes.get(f"{node}/{status.name}")
    if old is not None and old.digest == digest:
        return replace(old, state="started")
    origin = next((h for h, p in plans.items() if _has(p, node, status.name)), "")
    return ProcessRecord(node, status.name, status.kind or "engine", digest, "started", origin)


def _has(applied: Applied, node: str, name: str) -> bool:
    found = applied.instances.get(name)
    return found is not None and found.nodes[0] == node


def _plans(session: Session) -> dict[str, Applied]:
    """By hash, newest first: kept here, and on the head."""
    texts = {p.stem: p.read_bytes() for p in kept(session.fleet.folder)}
    head = session.fleet.plan.head
    if head in session.transports:
        transport, folder = session.transports[head], session.folders[head].plans
        try:
            names = transport.run(("ls", "-1t", folder)).stdout.split()
            for name in [n.removesuffix(".json") for n in names if n.endswith(".json")]:
                if name not in texts and (text := transport.get(f"{folder}/{name}.json")) is not None:
                    texts[name] = text
        except FleetError as error:
            session.note(f"the plans that it keeps could not be read: {error.message}", node=head, level="warning")
    found: dict[str, Applied] = {}
    for name, text in texts.items():
        try:
            found[name] = parse_applied(text, str(plans_folder(session.fleet.folder) / name))
        except InputError as error:
            session.note(error.message, level="warning")
    return found
