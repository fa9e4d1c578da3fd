"""A change to one node that knows whether it is needed, and the one place where such changes are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llmfleet.launch.events import Observer, PhaseDone, PhaseStarted, StepDone, StepFailed, StepStarted
from llmfleet.launch.pool import Outcome, on_each, raise_failures
from llmfleet.launch.results import ChangedStep
from llmfleet.planner.errors import FleetError, TransportError


@dataclass(frozen=True, slots=True)
class Step:
    """`needed` only looks; `apply` changes the node. A step that was applied is no longer needed."""

    node: str
    title: str
    needed: Callable[[], bool]
    apply: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs the steps of a phase: nodes side by side, the steps of one node in order."""

    observe: Observer
    dry_run: bool = False
    phases: int = 1
    check: Callable[[], None] = lambda: None  # raises where nothing may be changed any more, as when a lock was lost
    lose: Callable[[str, FleetError], None] | None = None  # told of nodes that stop answering; None: they end the run
    audit: Callable[[str, Step, str], None] = lambda *_: None  # told phase, step and error ("": it was done)

    def phase(self, number: int, name: str, build: Callable[[], Sequence[Step]]) -> list[ChangedStep]:
        return self.rounds(number, name, lambda: [build()])

    def rounds(self, number: int, name: str, build: Callable[[], Iterable[Sequence[Step]]]) -> list[ChangedStep]:
        """Steps of one round after those of the other. In each, every node gets its chance; then one error names each
        that failed, and no further round begins."""
        started = time.monotonic()
        self.observe(PhaseStarted(name, number, self.phases))
        changed: list[ChangedStep] = []
        failed: list[Outcome[str, list[ChangedStep]]] = []
        for steps in build():
            outcomes = self._round(name, steps)
            changed += [c for o in outcomes if o.value is not None for c in o.value]
            failed = [o for o in outcomes if o.error is not None and not self._lost(o)]
            if failed:
                break
        self.observe(PhaseDone(name, len(changed), time.monotonic() - started))
        raise_failures(name, failed)
        return changed

    def _round(self, name: str, steps: Sequence[Step]) -> list[Outcome[str, list[ChangedStep]]]:
        by_node: dict[str, list[Step]] = {}
        for step in steps:
            by_node.setdefault(step.node, []).append(step)
        return on_each(list(by_node), lambda node: self._run_node(name, by_node[node]))

    def _lost(self, outcome: Outcome[str, list[ChangedStep]]) -> bool:
        if self.lose is None or not isinstance(outcome.error, TransportError):
            return False
        self.lose(outcome.item, outcome.error)
        return True

    def _run_node(self, phase: str, steps: Sequence[Step]) -> list[ChangedStep]:
        return [ChangedStep(phase, s.node, s.title) for s in steps if self._run(phase, s)]

    def _run(self, phase: str, step: Step) -> bool:
        try:
            if not step.needed():
                self.observe(StepDone(step.node, step.title, changed=False))
                return False
            if not self.dry_run:
                self._apply(phase, step)
        except FleetError as error:
            error.node = error.node or step.node
            self.observe(StepFailed(step.node, step.title, error.message))
            raise
        self.observe(StepDone(step.node, step.title, changed=True))
        return True

    def _apply(self, phase: str, step: Step) -> None:
        self.check()
        self.observe(StepStarted(step.node, step.title))
        try:
            step.apply()
        except FleetError as error:
            self.audit(phase, step, error.message)
            raise
        self.audit(phase, step, "")
