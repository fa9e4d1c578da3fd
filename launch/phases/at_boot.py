"""The unit by which systemd starts again after a reboot what ran on a node, where the inventory asks for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llmfleet.launch.change.steps import Step
from llmfleet.launch.nodes.processes import last_line
from llmfleet.launch.session import Session
from llmfleet.launch.units.boot import BootUnit
from llmfleet.planner.errors import CommandError

RELOAD = ("daemon-reload",)


def boot_steps(session: Session, nodes: Iterable[str], left: Collection[str]) -> list[Step]:
    """`left`: nodes that the plan no longer has."""
    asked = [n for n in nodes if session.node(n).runtime.at_boot]
    others = {n for n in {*nodes, *left} - set(asked) if _may_have(session, n)}
    return [*(_install_step(session, n) for n in asked), *remove_steps(session, others)]


def _may_have(session: Session, node: str) -> bool:
    facts = session.facts.get(node)
    return facts is None or _unit(session, node, system=True).name in facts.units


def remove_steps(session: Session, nodes: Iterable[str]) -> list[Step]:
    return [_remove_step(session, node) for node in sorted(nodes)]


def _install_step(session: Session, node: str) -> Step:
    transport, facts = session.transports[node], session.facts[node]
    unit = _unit(session, node, system=facts.uid == 0)

    def text() -> bytes:
        if facts.boot is None:
            raise CommandError("it did not say what starts things there at boot", node=node, hint="Run `up` again.")
        return unit.text(session.node(node).runtime, facts.boot).encode()

    def needed() -> bool:
        there = transport.get(unit.path)
        if there is not None and not unit.owns(there):
            raise CommandError(f"{unit.path} is another's", hint="Has another fleet this name? Remove it there.")
        return there != text() or not transport.run(unit.systemctl("is-enabled", "--quiet", unit.name)).ok

    def apply() -> None:
        transport.put(text(), unit.path, mode=0o644)
        _systemctl(session, unit, *RELOAD)
        _systemctl(session, unit, "enable", unit.name)  # not --now: what should run does

    return Step(node, f"start engines at boot: {unit.name}", needed, apply)


def _remove_step(session: Session, node: str) -> Step:
    """Of root's unit and of the user's: who logs in there may have changed."""
    transport = session.transports[node]
    units = [_unit(session, node, system=system) for system in (True, False)]

    def there() -> list[BootUnit]:
        return [unit for unit in units if unit.owns(transport.get(unit.path))]

    def apply() -> None:
        for unit in there():
            transport.run(unit.systemctl("disable", unit.name))  # a user's manager may not run: then its link goes too
            done = transport.run(("rm", "-f", "--", unit.link, unit.path))
            if not done.ok:
                raise CommandError(f"{unit.path} could not be removed: {last_line(done)}", hint="Whose is it?")
            transport.run(unit.systemctl(*RELOAD))

    return Step(node, f"start nothing at boot: remove {units[0].name}", needed=lambda: bool(there()), apply=apply)


def _unit(session: Session, node: str, *, system: bool) -> BootUnit:
    cluster, home = session.fleet.inventory.cluster, session.transports[node].home()
    return BootUnit(cluster, node, session.folders[node], home, system)


def _systemctl(session: Session, unit: BootUnit, *words: str) -> None:
    done = session.transports[unit.node].run(unit.systemctl(*words), timeout=60)
    if not done.ok:
        raise CommandError(
            f"`systemctl {'' if unit.system else '--user '}{' '.join(words)}` failed: {last_line(done)}",
            node=unit.node,
            hint="Does it work when you type it there? `runtime: {at_boot: false}` does without.",
        )
