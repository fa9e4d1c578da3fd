"""One command's live connection to the fleet: transports, folders on nodes, addresses, facts, state, lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llmfleet.launch.change.steps import Step
from llmfleet.launch.events import Note
from llmfleet.launch.fleet import Fleet, NodeFolder, node_folder
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.launch.pool import Outcome, on_each
from llmfleet.launch.record.account import check_account
from llmfleet.launch.record.audit import AuditFile, append_command, entry
from llmfleet.launch.record.lock import FleetLock
from llmfleet.launch.record.state import Runtime, State, StateStore, dump_state, parse_state, united
from llmfleet.launch.transport import Transport, open_transport
from llmfleet.planner.errors import BrokenStateError, FleetError, StateError, TransportError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.ports import address_of

RETRY_S = 1.0


@dataclass
class Session:
    """`connect` fills transports and folders; nodes that could not be reached are in `lost` with the reason."""

    fleet: Fleet
    store: StateStore
    lock: FleetLock | None = None  # None: this command only looks
    transports: dict[str, Transport] = field(default_factory=dict)
    folders: dict[str, NodeFolder] = field(default_factory=dict)
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)  # how nodes reach each other, IP where it could be resolved
    lost: dict[str, FleetError] = field(default_factory=dict)
    asked_runtime: Runtime | None = None  # None: what the state says
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _on_head: bytes | None = None  # the head's copy of the state, as last seen or written
    _not_ours: bool = False  # that copy could not be read, or is one that we refuse: it stays as it is

    @property
    def runtime(self) -> Runtime:
        return self.asked_runtime or self.store.value.runtime

    @property
    def on_ray_serve(self) -> bool:
        return self.runtime == "ray-serve"

    def connect(self, nodes: Iterable[Node], *, patience_s: float = 0.0) -> list[Outcome[Node, None]]:
        """Connects what is not connected yet, all at once; the caller decides what a failure means.

        `patience_s`: how long nodes are tried again whose failure may go away by itself.
        """
        deadline = time.monotonic() + patience_s
        todo = [n for n in nodes if n.name not in self.transports]
        outcomes = on_each(todo, self._connect_one)
        for outcome in outcomes if patience_s else ():
            if outcome.error is not None and heals(outcome.error):
                what = f"{outcome.error.message}; trying for another {patience_s:g} s"
                self.note(what, node=outcome.item.name, level="warning")
        while (again := [o.item for o in outcomes if heals(o.error)]) and time.monotonic() < deadline:
            time.sleep(RETRY_S)
            retried = {o.item.name: o for o in on_each(again, self._connect_one)}
            outcomes = [retried.get(o.item.name, o) for o in outcomes]
            for name in [name for name, outcome in retried.items() if outcome.ok]:
                self.note("it answers again", node=name)
        for outcome in outcomes:
            if outcome.error is not None:
                outcome.error.node = outcome.error.node or outcome.item.name
                self.lost[outcome.item.name] = outcome.error
        return outcomes

    def lose(self, node: str, error: FleetError) -> None:
        """Leaves a node that stopped answering out of the rest of this run."""
        self.lost[node] = error
        if transport := self.transports.pop(node, None):
            transport.close()

    def _connect_one(self, node: Node) -> None:
        before = self.recorded(node.name)
        if before and any(r.node == node.name for r in self.store.value.processes.values()):
            check_account(before, node)
        transport = open_transport(node)
        try:
            transport.connect()
            folder = node_folder(node, self.fleet.inventory.cluster, transport.home())
        except BaseException:
            transport.close()
            raise
        with self._mutex:
            self.transports[node.name] = transport
            self.folders[node.name] = folder
            self.addresses.setdefault(node.name, address_of(node))
            self.lost.pop(node.name, None)

    def recorded(self, name: str) -> Node | None:
        """As `up` last worked on it; None where nobody knows, as of a record that another version has written."""
        if self.store.broken is not None or name not in self.store.value.nodes:
            return None
        try:
            return self.store.value.node(name)
        except StateError:
            return None

    def reached(self, nodes: Iterable[Node]) -> list[Node]:
        return [n for n in nodes if n.name in self.transports]

    def node(self, name: str) -> Node:
        """From the inventory, or from the state where the inventory no longer has it."""
        for node in self.fleet.inventory.nodes:
            if node.name == name:
                return node
        if name in self.store.value.nodes:
            return self.store.value.node(name)
        raise StateError(
            f'no node "{name}" in the inventory or in the state',
            hint="Is the plan older than the inventory? Plan again.",
        )

    def note(self, text: str, *, node: str = "", level: str = "info") -> None:
        self.fleet.observe(Note(node, text, level))

    def lock_head(self) -> None:
        """Keeps runs from other machines out. The head must be connected. Raises LockedError naming the holder."""
        if self.lock is not None:
            head = self.fleet.plan.head
            self.lock.hold_head(self.transports[head], self.folders[head].root, self.node(head).runtime.python)

    def audit(self, phase: str, step: Step, error: str) -> None:
        """Writes down what a step did, here and on its node. One that cannot be written stops no work."""
        if self.lock is None:
            return
        line = entry(
            self.lock.holder, node=step.node, phase=phase, step=step.title, error=error, plan=self.fleet.plan.hash
        ).line()
        try:
            AuditFile(self.fleet.folder).append(line)
            if step.node in self.transports:
                path = self.folders[step.node].audit
                done = self.transports[step.node].run(append_command(path, line))
                if not done.ok:
                    raise OSError(done.stderr.strip())
        except (OSError, FleetError) as why:
            self.note(f"the audit log could not be written: {why}", node=step.node, level="warning")

    def check_lock(self) -> None:
        """Raises StateError when the lock was lost: another run may have begun."""
        if self.lock is not None:
            self.lock.check()

    def copy_state_to_head(self) -> None:
        """The head's copy lets another machine take over; a head that is away does not stop the run.

        Nothing is written where it has this state already, or where the lock, and with it the copy, may be another's.
        """
        head = self.fleet.plan.head
        if head not in self.transports or not self.store.exists or self.lock is None or self.lock.lost:
            return
        if self._not_ours:
            return
        state = dump_state(self.store.value)
        if state == self._on_head:
            return
        try:
            self.transports[head].put(state, self.folders[head].state)
            self._on_head = state
        except FleetError as error:
            self.note(f"the state could not be copied to the head: {error.message}", node=head, level="warning")

    def adopt_state_from_head(self) -> None:
        """Takes over what runs from other machines have recorded. Without the lock, for this run only.

        Of two copies one may be broken: the other is enough. Raises BrokenStateError where neither is a state.
        """
        if self.fleet.plan.head not in self.transports:
            return
        try:
            self._adopt(self.fleet.plan.head)
        except BrokenStateError:
            raise
        except FleetError:
            self._not_ours = True
            raise

    def _adopt(self, head: str) -> None:
        self._on_head = self.transports[head].get(self.folders[head].state)
        theirs = self._parsed_of_head(self._on_head)
        if theirs is None:
            _ = self.store.value  # raises where ours is broken too
            return
        if (broken := self.store.broken) is not None:
            self.store.adopt(theirs, keep=self.lock is not None)
            self.note(f"{broken.message}; took the copy that the head node keeps", level="warning")
            return
        both = united(self.store.value, theirs)
        if both != self.store.value:
            self.store.adopt(both, keep=self.lock is not None)
            self.note("took over the state that the head node keeps", node=head)

    def _parsed_of_head(self, text: bytes | None) -> State | None:
        head = self.fleet.plan.head
        try:
            return None if text is None else parse_state(text, f"{head}:{self.folders[head].state}")
        except BrokenStateError as error:
            self.note(f"{error.message}; it is written anew from the state here", node=head, level="warning")
            return None

    def close(self) -> None:
        for transport in self.transports.values():
            transport.close()


def heals(error: FleetError | None) -> bool:
    return isinstance(error, TransportError) and error.heals


@contextmanager
def open_session(fleet: Fleet, lock: FleetLock | None = None) -> Iterator[Session]:
    session = Session(fleet, StateStore(fleet.folder, fleet.inventory.cluster), lock)
    try:
        yield session
    finally:
        session.close()
