"""Makes the fleet match the plan. Reading PHASES is reading what happens, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from llmfleet.launch.change import desired
from llmfleet.launch.change.roll import Engine, Roll, Wanted, nodes_at_once, plan_roll
from llmfleet.launch.change.steps import Runner, Step
from llmfleet.launch.engine_key import engine_key
from llmfleet.launch.events import PlanChanged
from llmfleet.launch.export.kinds import Kind
from llmfleet.launch.fleet import Fleet, NodeFolder
from llmfleet.launch.nodes.process import MEMBERS, Process
from llmfleet.launch.nodes.processes import Statuses, read_statuses
from llmfleet.launch.phases import (
    agree,
    at_boot,
    checks,
    connect,
    facts,
    images,
    instances,
    ray,
    roll,
    router,
    scripts,
    serving,
    verify,
    weights,
)
from llmfleet.launch.ray_serve import application
from llmfleet.launch.ray_serve.members import working
from llmfleet.launch.record import account, applied
from llmfleet.launch.record.lock import fleet_lock
from llmfleet.launch.record.state import Runtime
from llmfleet.launch.results import ChangedStep, UpReport
from llmfleet.launch.session import Session, open_session
from llmfleet.planner.difference import difference
from llmfleet.planner.errors import FleetError, NodesError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

MOVED = "if that is another machine, what was started there is no longer known and has to be ended by hand"
LEFT = "the logs, copied weights and units that are left of it are yours to remove"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """`max_unavailable`: nodes that may be out of rotation at once while engines are replaced, "2" or "25%".
    `drain_timeout_s`: how long their requests may take; `force`: what runs longer is cut off. `again`: the command
    that goes on where this run stops. `runtime`: as before where it is None, for a fleet that is not up "engines"."""

    dry_run: bool = False
    skip_unreachable: bool = False
    max_unavailable: str = "1"
    drain_timeout_s: float = 600.0
    force: bool = False
    again: str = "llmfleet up"
    runtime: Runtime | None = None


@dataclass
class Up:
    """What one run has learned so far; each phase reads and adds to it."""

    session: Session
    options: UpOptions = UpOptions()
    nodes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # nodes that the plan no longer has, with processes to stop
    roll: Roll = field(default_factory=lambda: Roll((), ()))

    @property
    def dry_run(self) -> bool:
        return self.options.dry_run

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Nodes of routers take part also while their own instances are drained."""
        out = self.session.store.value.out_of_rotation
        return desired.active_instances(self.session.fleet.plan, [n for n in self.nodes if n not in out])

    @property
    def _where(self) -> tuple[dict[str, Node], dict[str, NodeFolder], dict[str, str]]:
        session = self.session
        nodes = {name: desired.with_interface(session.node(name), session.facts.get(name)) for name in self.nodes}
        return nodes, session.folders, session.addresses

    @property
    def ray(self) -> tuple[Process, ...]:
        made = ray.members(self.session, self.instances, self._where)
        return tuple(at_boot.in_unit(self.session, process) for process in made)

    @property
    def engines(self) -> tuple[Process, ...]:
        """Where Ray Serve runs them: what keeps them there."""
        if self.session.on_ray_serve:
            return (at_boot.in_unit(self.session, application.wanted_application(self.session, self.kinds)),)
        cores = {name: facts.cpus for name, facts in self.session.facts.items()}
        key = engine_key(self.session.fleet)
        made = desired.engine_processes(self.session.fleet.plan, self.instances, *self._where, cores, key)
        return tuple(at_boot.in_unit(self.session, process) for process in made)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """As far as their nodes take part, for Ray Serve."""
        return working(application.kinds_planned(self.session), {n for i in self.instances for n in i.nodes})

    def statuses(self) -> Statuses:
        return read_statuses(self.session, [*self.nodes, *self.left])


def connect_phase(up: Up) -> list[Step]:
    up.nodes = connect.connect(up.session, skip_unreachable=up.options.skip_unreachable)
    serving.settle_runtime(up.session, up.options.runtime)
    up.left = connect.connect_left(up.session)
    return []


def facts_phase(up: Up) -> list[Step]:
    facts.gather(up.session, up.nodes, up.instances)
    return []


def checks_phase(up: Up) -> list[Step]:
    checks.check(up.session, up.nodes, up.instances)
    return []


def compare_phase(up: Up) -> list[Step]:
    """What runs is what the state says; and what of it stays, goes or is replaced."""
    statuses = up.statuses()
    agree.compare(up.session, statuses)
    _tell_difference(up)
    up.roll = _roll(up, statuses)
    if up.roll.waves:
        up.session.note(up.roll.summary)
        for service in up.roll.outages(up.instances):
            what = f"nothing serves {service} while the only engine that does is replaced"
            up.session.note(what, level="warning")
    return []


def scripts_phase(up: Up) -> list[Step]:
    if not up.dry_run:
        _remember(up)
    return [*scripts.script_steps(up.session, up.nodes), *scripts.key_steps(up.session, up.instances)]


def boot_phase(up: Up) -> list[Step]:
    return at_boot.unit_steps(up.session, up.nodes, up.left)


def weights_phase(up: Up) -> Iterable[Sequence[Step]]:
    copies, loads = images.image_steps(up.session, up.instances)
    yield [*weights.weight_steps(up.session, up.instances), *copies]
    yield loads


def clear_phase(up: Up) -> list[Step]:
    """Engines that cannot serve: their other nodes are away, or they are only on record."""
    kept = {e.key for e in up.roll.leaving}
    return instances.stale_steps(up.session, _wanted(up), up.statuses(), kinds=("engine",), kept=kept)


def ray_head_phase(up: Up) -> list[Step]:
    return _start(up, [p for p in up.roll.ray if p.kind == "ray-head"])


def ray_workers_phase(up: Up) -> list[Step]:
    return _start(up, [p for p in up.roll.ray if p.kind in ("ray-worker", "rank")])


def instances_phase(up: Up) -> Iterable[Sequence[Step]]:
    if not up.dry_run:
        ray.wait_joined(up.session, up.roll.ray)
    if up.session.on_ray_serve:
        yield [application.config_step(up.session, up.kinds)]
    yield _start(up, up.roll.fresh)


def router_phase(up: Up) -> list[Step]:
    plan = roll.served(up.session.fleet.plan, up.roll)
    return [*router.file_steps(up.session, plan), *_start(up, router.desired_processes(up.session))]


def health_phase(up: Up) -> list[Step]:
    if not up.dry_run:
        instances.wait_healthy(up.session, up.roll.fresh)
    return []


def replace_phase(up: Up) -> Iterable[Sequence[Step]]:
    if up.roll.waves and not up.dry_run:
        roll.wait_routed(up.session, {p.name for p in up.roll.fresh})
    options = up.options
    return roll.Waves(
        up.session, up.roll, up.ray, options.drain_timeout_s, force=options.force, dry_run=up.dry_run
    ).rounds()


def stale_phase(up: Up) -> list[Step]:
    kept = {e.key for e in up.roll.leaving} if up.dry_run else set()
    stopped = instances.stale_steps(up.session, _wanted(up), up.statuses(), kept=kept)
    return [*stopped, *at_boot.idle_steps(up.session, up.nodes, up.left)]


def verify_phase(up: Up) -> list[Step]:
    if not up.dry_run:
        instances.wait_healthy(up.session, router.desired_processes(up.session))
        verify.verify(up.session, _routed(up))
        if not up.session.lost:
            up.session.store.completed()
    return []


def _routed(up: Up) -> Iterable[Instance]:
    if not up.session.on_ray_serve:
        return up.instances
    left = {kind.name for kind in up.kinds}
    return [i for i in application.plan_by_kind(up.session).instances if i.id in left]


def one(steps: Callable[[Up], list[Step]]) -> Callable[[Up], Iterable[Sequence[Step]]]:
    """A phase whose steps need not wait for each other but on one node."""
    return lambda up: [steps(up)]


PHASES: tuple[tuple[str, Callable[[Up], Iterable[Sequence[Step]]]], ...] = (
    ("connect", one(connect_phase)),
    ("facts", one(facts_phase)),
    ("checks", one(checks_phase)),
    ("compare", one(compare_phase)),
    ("scripts", one(scripts_phase)),
    ("at boot", one(boot_phase)),
    ("weights", weights_phase),
    ("stop what cannot serve", one(clear_phase)),
    ("ray head", one(ray_head_phase)),
    ("ray workers", one(ray_workers_phase)),
    ("instances", instances_phase),
    ("router", one(router_phase)),
    ("health", one(health_phase)),
    ("replace", replace_phase),
    ("stop what the plan no longer has", one(stale_phase)),
    ("verify", one(verify_phase)),
)


def up(fleet: Fleet, options: UpOptions = UpOptions()) -> UpReport:
    """Idempotent: a second run changes nothing, a killed run is gone on with.

    Raises NodesError (every node that failed), LockedError, StateError, HealthError; what was done is in the state.
    """
    with locked_session(fleet, "up", lock=not options.dry_run) as session:
        return run_up(session, options)


def run_up(session: Session, options: UpOptions = UpOptions()) -> UpReport:
    begun = time.monotonic()
    nodes_at_once(options.max_unavailable, 1)  # a mistake in it is told before anything is asked of a node
    work = Up(session, options)
    runner = Runner(session.fleet.observe, options.dry_run, len(PHASES), session.check_lock, audit=session.audit)
    changed: list[ChangedStep] = []
    for number, (name, rounds) in enumerate(PHASES, start=1):
        try:
            changed += runner.rounds(number, name, partial(rounds, work))
            session.check_lock()
        except FleetError as error:
            error.hint = " ".join(filter(None, [error.hint, _way_back(work, name)]))
            raise
        finally:
            session.copy_state_to_head()
    if options.skip_unreachable and session.lost and not options.dry_run:
        raise NodesError("connect (the other nodes are up)", list(session.lost.values()))
    return UpReport(
        tuple(changed), options.dry_run, time.monotonic() - begun, verify.router_url(session), tuple(session.lost)
    )


def _tell_difference(up: Up) -> None:
    state, plan = up.session.store.value, up.session.fleet.plan
    before = applied.Origins(up.session).plan(state.previous_plan if state.changing else state.plan_hash)
    if before is not None and before.hash != plan.hash:
        up.session.fleet.observe(PlanChanged(difference(before, plan)))


def _way_back(up: Up, phase: str) -> str:
    """What to do when a change of plan stops half-way."""
    state = up.session.store.value
    if phase not in ("instances", "health", "replace", "verify") or up.dry_run or not state.changing:
        return ""
    old, new = state.previous_plan[:6], state.plan_hash[:6]
    return (
        f"The change from plan {old} to {new} stops here, and what was not replaced yet serves on. "
        f"Go on with `{up.options.again}`, or back with `llmfleet up --plan {old}`."
    )


def _wanted(up: Up) -> tuple[Process, ...]:
    return (*up.ray, *up.engines, *router.desired_processes(up.session))


def _roll(up: Up, statuses: Statuses) -> Roll:
    """Engines that cannot serve any more, since a node of theirs is away, are not rolled: they are just stopped."""
    session, plan = up.session, up.session.fleet.plan
    if session.on_ray_serve:
        return Roll(up.engines, serving.unchanged(up.ray, statuses))
    origins, here = applied.Origins(session), {*up.nodes, *up.left}
    planned = {(i.nodes[0], i.id): i for i in plan.instances}
    active = {i.id for i in up.instances}
    finishing = instances.finishing(session)
    running: list[Engine] = []
    for node, known in statuses.items():
        for name, status in known.items():
            if not status.alive or status.kind != "engine" or (node, name) in finishing:
                continue
            if (node, name) in planned and name not in active:
                continue
            instance = origins.instance(node, name) or planned.get((node, name))
            if instance is None or here.issuperset(instance.nodes):
                running.append(Engine(node, name, status.digest, instance))
    alive_ray = {
        (node, name): s.digest
        for node, known in statuses.items()
        for name, s in known.items()
        if s.alive and s.kind in MEMBERS
    }
    wanted = Wanted(up.engines, up.ray, {i.id: i for i in up.instances}, session.addresses, plan.head)
    carrying = {n for i in plan.instances for n in i.nodes}
    return plan_roll(
        wanted, running, alive_ray,
        order=[n.name for n in session.fleet.inventory.nodes],
        at_once=nodes_at_once(up.options.max_unavailable, len(carrying)),
    )  # fmt: skip


@contextmanager
def locked_session(fleet: Fleet, command: str, *, lock: bool = True) -> Iterator[Session]:
    """A session that no other run works beside: locked here, and on the head node once that is connected."""
    if not lock:
        with open_session(fleet) as session:
            yield session
        return
    with fleet_lock(fleet.folder, command=command) as held, open_session(fleet, held) as session:
        try:
            yield session
        finally:
            held.release()  # before the connection ends, so that the head says it has let go


def _remember(up: Up) -> None:
    session, plan = up.session, up.session.fleet.plan
    nodes = tuple(session.node(name) for name in up.nodes)
    for node in nodes:
        _tell_moved(session, session.recorded(node.name) or node, node)
    session.store.remember_nodes(nodes, plan_hash=plan.hash, head=plan.head, runtime=session.runtime)
    applied.remember(session)


def _tell_moved(session: Session, before: Node, node: Node) -> None:
    if before.host != node.host:
        session.note(f"it was at {before.host} before: {MOVED}", node=node.name, level="warning")
    if what := account.changed(before, node):  # with something running there it would have been refused
        session.note(f"what ran there was started {what}: {LEFT}", node=node.name, level="warning")


def _start(up: Up, processes: list[Process] | tuple[Process, ...]) -> list[Step]:
    statuses = read_statuses(up.session, {p.node for p in processes})
    return instances.start_steps(up.session, processes, statuses)
