"""What happens while a command works, told to one observer: the terminal, plain lines, JSON, or a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmfleet.planner.difference import Difference


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    name: str
    number: int
    of: int


@dataclass(frozen=True, slots=True)
class PhaseDone:
    name: str
    changed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepStarted:
    node: str
    title: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """`changed` is False where nothing needed doing. In a dry run it means: would change."""

    node: str
    title: str
    changed: bool


@dataclass(frozen=True, slots=True)
class StepFailed:
    node: str
    title: str
    message: str


@dataclass(frozen=True, slots=True)
class Note:
    """Progress of something slow, or a thing worth knowing; `node` may be empty."""

    node: str
    text: str
    level: str = "info"  # info | warning


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """Another plan than the one that is up is about to be put in place."""

    difference: Difference


Event = PhaseStarted | PhaseDone | StepStarted | StepDone | StepFailed | Note | PlanChanged


class Observer(Protocol):
    """Called from several threads."""

    def __call__(self, event: Event) -> None: ...


def silent(event: Event) -> None:
    """An observer that hears nothing."""
