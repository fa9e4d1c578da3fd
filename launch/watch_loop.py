"""`llmfleet watch` at work: looks, judges, says, and where it is allowed to, acts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmfleet.launch.fleet import Fleet
from llmfleet.launch.looking import Looker
from llmfleet.launch.pool import on_each
from llmfleet.launch.record.applied import dump_applied
from llmfleet.launch.record.state import write_atomically
from llmfleet.launch.results import FleetStatus
from llmfleet.launch.transport import open_transport
from llmfleet.launch.up import UpOptions, up
from llmfleet.launch.watch import Proposal, Vigil, fleet_for, propose
from llmfleet.planner.errors import FleetError, LockedError
from llmfleet.planner.inventory.model import Inventory, Node
from llmfleet.planner.plan import Plan

PROPOSED = "proposed.json"
LOCKED_AGAIN_S = 30.0
ASK_DEAD_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class WatchOptions:
    interval_s: float = 5.0
    dead_after_s: float = 120.0
    apply: bool = False


@dataclass
class Watch:
    """`make`: the plan of an inventory; `say`: takes a sentence for the log; `put`: keeps a plan as the fleet's own."""

    fleet: Fleet
    options: WatchOptions
    make: Callable[[Inventory], Plan]
    say: Callable[[str], None]
    put: Callable[[Plan], None]
    clock: Callable[[], float] = time.monotonic
    vigil: Vigil = field(init=False)
    _proposal: Proposal | None = None  # to be tried, once the lock is free
    _not_before: float = 0.0
    _asked_dead: float = 0.0
    _problems: frozenset[str] = frozenset()
    _blind: bool = False

    def __post_init__(self) -> None:
        self.vigil = Vigil(self.options.dead_after_s)

    def run(self) -> None:
        """Until it is interrupted."""
        names = ", ".join(n.name for n in self.fleet.planned_nodes())
        will = "does" if self.options.apply else "proposes"
        after = f"{self.options.dead_after_s:g} s"
        self.say(f"watching {names}; a node counts as dead after {after}; {will} what can be done")
        while True:
            with Looker(self.fleet) as looker:
                looked_at = self.fleet
                while self.fleet is looked_at:
                    self.see(looker.look()[0])
                    time.sleep(self.options.interval_s)

    def see(self, status: FleetStatus) -> None:
        """One look: what changed is said, and a loss is acted on."""
        if self._no_head(status):
            return
        now, away = self.clock(), set(status.unreachable)
        self._tell_problems(status)
        seen = self.vigil.see(now, away, status.served)
        seen += self.vigil.see_dead(now, self._answering(now, away))
        for change in seen:
            self.say(f"{change.node} {change}")
        if any(change.change == "dead" for change in seen):
            self._think()
        if self._proposal is not None and self.options.apply and now >= self._not_before:
            self._act(self._proposal)

    def _no_head(self, status: FleetStatus) -> bool:
        """Without the head nothing can be judged, since it asks the router, and nothing be done."""
        blind = status.router.state == "unreachable"
        if blind != self._blind:
            what = "does not answer: nothing can be judged from here" if blind else "answers again"
            self.say(f"{status.router.node}, the head node, {what}")
        self._blind = blind
        return blind

    def _tell_problems(self, status: FleetStatus) -> None:
        """Other things that are not as planned; nodes that are away have words of their own."""
        away = status.unreachable
        found = frozenset(p for p in status.problems if not any(name in p for name in away))
        for problem in sorted(found - self._problems):
            self.say(problem)
        for problem in sorted(self._problems - found):
            self.say(f"no longer: {problem}")
        self._problems = found

    def _answering(self, now: float, away: set[str]) -> set[str]:
        """Of the dead: those that the plan still has answer to the looks, the others are asked now and then."""
        planned = {n.name for n in self.fleet.planned_nodes()}
        here = {name for name in self.vigil.dead if name in planned and name not in away}
        others = [n for n in self.fleet.inventory.nodes if n.name in self.vigil.dead - planned]
        if others and now - self._asked_dead < ASK_DEAD_EVERY_S:
            return here | set(self.vigil.returned)
        self._asked_dead = now
        return here | {outcome.item.name for outcome in on_each(others, _connects) if outcome.ok}

    def _think(self) -> None:
        try:
            proposal = propose(self.fleet, self.vigil.dead, self.make)
        except FleetError as error:
            self.say(f"no plan for what is left: {error.message} {error.hint}".strip())
            return
        if proposal is None:
            self.say("it carried no instance: nothing is to be done")
        elif not proposal.gains:
            self.say(f"nothing on what is left can take over: {_figures(proposal, proposed=False)}")
        else:
            self._proposal = proposal
            path = self.fleet.folder / PROPOSED
            write_atomically(path, dump_applied(proposal.plan, proposal.inventory))
            self.say(f"on what is left: {_figures(proposal)}; the plan is in {path}")
            if not self.options.apply:
                self.say(f"to put it in place: llmfleet up --plan {path} --skip-unreachable")

    def _act(self, proposal: Proposal) -> None:
        """Once. What fails is a person's to look at; only a lock is waited for."""
        self.say(f"putting plan {proposal.plan.hash[:6]} in place")
        fleet = fleet_for(self.fleet, proposal)
        try:
            up(fleet, UpOptions(skip_unreachable=True))
        except LockedError as error:
            self._not_before = self.clock() + LOCKED_AGAIN_S
            self.say(f"{error.message}; trying again in {LOCKED_AGAIN_S:g} s")
            return
        except FleetError as error:
            self._proposal = None
            self.say(f"it could not be put in place, and is not tried again: {error}")
            return
        self._proposal, self.fleet = None, fleet
        self.put(proposal.plan)
        self.say(f"plan {proposal.plan.hash[:6]} is up; inventory.yaml still has {', '.join(proposal.dead)}")


def _connects(node: Node) -> None:
    transport = open_transport(node)
    try:
        transport.connect()
    finally:
        transport.close()


def _figures(proposal: Proposal, *, proposed: bool = True) -> str:
    parts = []
    for service, before in proposal.before.items():
        now = f"{service} {proposal.left[service]:.1f} of {before:.1f} requests/s"
        parts.append(f"{now}, {proposal.after[service]:.1f} with another plan" if proposed else now)
    return "; ".join(parts)
