"""Units of systemd on nodes, where the inventory asks for them: to start things at boot, or to keep them running."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from llmfleet.launch.change.steps import Step
from llmfleet.launch.nodes.process import TOGETHER, Process
from llmfleet.launch.nodes.processes import last_line
from llmfleet.launch.session import Session
from llmfleet.launch.units.boot import BootUnit
from llmfleet.launch.units.of_node import NodeUnit
from llmfleet.launch.units.service import STOP_WITHIN_S, ServiceUnit
from llmfleet.planner.errors import CommandError

RELOAD = ("daemon-reload",)
Kind = type[NodeUnit]
INSTALL: Mapping[Kind, str] = {BootUnit: "start engines at boot", ServiceUnit: "have systemd keep supervisors"}
REMOVE: Mapping[Kind, str] = {BootUnit: "start nothing at boot", ServiceUnit: "have systemd keep nothing"}
WITHOUT: Mapping[Kind, str] = {BootUnit: "at_boot: false", ServiceUnit: "supervisor: detached"}


def in_unit(session: Session, process: Process) -> Process:
    """The process as it is kept on its node. Parts of what spans nodes are not for one node alone to start at boot."""
    if session.node(process.node).runtime.supervisor != "systemd":
        return process
    cluster, folder = session.fleet.inventory.cluster, session.folders[process.node]
    unit = ServiceUnit(cluster, process.node, folder, home="", system=False).of(process.name)
    spanning = {i.id for i in session.fleet.plan.instances if i.spans_nodes}
    return replace(process, unit=unit, at_boot=process.kind not in TOGETHER and process.name not in spanning)


def unit_steps(session: Session, nodes: Iterable[str], left: Collection[str]) -> list[Step]:
    """Before anything is started. `left`: nodes that the plan no longer has."""
    services = [n for n in nodes if session.node(n).runtime.supervisor == "systemd"]
    asked = [n for n in nodes if session.node(n).runtime.at_boot and n not in services]
    return [
        *(_install_step(session, n, ServiceUnit) for n in services),
        *(_install_step(session, n, BootUnit) for n in asked),
        *_gone(session, {*nodes, *left} - set(asked), BootUnit),
    ]


def idle_steps(session: Session, nodes: Iterable[str], left: Collection[str]) -> list[Step]:
    """At the end, when nothing runs by them any more; what is draining may."""
    asked = {n for n in nodes if session.node(n).runtime.supervisor == "systemd"}
    return _gone(session, {*nodes, *left} - asked - set(session.store.value.draining), ServiceUnit)


def _gone(session: Session, nodes: Iterable[str], kind: Kind) -> list[Step]:
    """Of nodes without facts it is not known what they have."""
    known = {n: session.facts.get(n) for n in nodes}
    name = {n: _unit(session, n, kind, system=True).name for n in known}
    return remove_steps(session, [n for n, facts in known.items() if facts is None or name[n] in facts.units], kind)


def remove_steps(session: Session, nodes: Iterable[str], kind: Kind) -> list[Step]:
    return [_remove_step(session, node, kind) for node in sorted(nodes)]


def _install_step(session: Session, node: str, kind: Kind) -> Step:
    transport, facts = session.transports[node], session.facts[node]
    unit = _unit(session, node, kind, system=facts.uid == 0)

    def text() -> bytes:
        if facts.boot is None:
            raise CommandError("it did not say what starts things there at boot", node=node, hint="Run `up` again.")
        return unit.text(session.node(node).runtime, facts.boot).encode()

    def enabled() -> bool:
        """Of services each process's own is."""
        return kind is ServiceUnit or transport.run(unit.systemctl("is-enabled", "--quiet", unit.name)).ok

    def needed() -> bool:
        there = transport.get(unit.path)
        if there is not None and not unit.owns(there):
            raise CommandError(f"{unit.path} is another's", hint="Has another fleet this name? Remove it there.")
        return there != text() or not enabled()

    def apply() -> None:
        transport.put(text(), unit.path, mode=0o644)
        _systemctl(session, unit, *RELOAD)
        if kind is BootUnit:
            _systemctl(session, unit, "enable", unit.name)  # not --now: what should run does

    return Step(node, f"{INSTALL[kind]}: {unit.name}", needed, apply)


def _remove_step(session: Session, node: str, kind: Kind) -> Step:
    """Of root's unit and of the user's: who logs in there may have changed."""
    transport = session.transports[node]
    units = [_unit(session, node, kind, system=system) for system in (True, False)]

    def there() -> list[NodeUnit]:
        return [unit for unit in units if unit.owns(transport.get(unit.path))]

    def apply() -> None:
        for unit in there():
            for argv in unit.ending:
                transport.run(argv, timeout=STOP_WITHIN_S + 10)
            done = transport.run(("rm", "-f", "--", unit.path))
            if not done.ok:
                raise CommandError(f"{unit.path} could not be removed: {last_line(done)}", hint="Whose is it?")
            transport.run(unit.systemctl(*RELOAD))

    return Step(node, f"{REMOVE[kind]}: remove {units[0].name}", needed=lambda: bool(there()), apply=apply)


def _unit(session: Session, node: str, kind: Kind, *, system: bool) -> NodeUnit:
    cluster, home = session.fleet.inventory.cluster, session.transports[node].home()
    return kind(cluster, node, session.folders[node], home, system)


def _systemctl(session: Session, unit: NodeUnit, *words: str) -> None:
    done = session.transports[unit.node].run(unit.systemctl(*words), timeout=60)
    if not done.ok:
        raise CommandError(
            f"`systemctl {'' if unit.system else '--user '}{' '.join(words)}` failed: {last_line(done)}",
            node=unit.node,
            hint=f"Does it work when you type it there? `runtime: {{{WITHOUT[type(unit)]}}}` does without.",
        )
