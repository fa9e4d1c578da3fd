"""The one exception tree. Every message says what, where and why; `hint` says what to do next.

    FleetError                  exit code 1: the fleet is not as it should be
    ├── InputError              2: what the user gave cannot be used
    │   ├── InventoryError      all problems of one file at once
    │   ├── UnknownNameError    a GPU, model, node or service that nobody knows; carries the nearest names
    │   └── ModelError          an architecture or config.json that is not understood
    ├── PlanError               1: no plan satisfies the inventory
    ├── StateError              1: what is recorded and what was asked for disagree
    │   └── BrokenStateError    the state file is none: cut short, or garbage
    ├── NodesError              several nodes failed; its exit code is the worst of them
    ├── TransportError          3: a node could not be reached
    │   ├── HostKeyError        its key is unknown or changed
    │   ├── AuthError           it refused the user, key or password
    │   │   └── SudoError       its sudo did
    │   └── DeadlineError       it did not answer in time
    ├── LockedError             4: another run holds the lock
    ├── CommandError            1: a command on a node failed
    └── HealthError             1: an engine, Ray or the router did not become or stay healthy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_NAMED = 12  # of the names that are known


class FleetError(Exception):
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", node: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.node = node

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        return f"{where}{self.message}" + (f"\n  → {self.hint}" if self.hint else "")


class InputError(FleetError):
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file. Lines and columns count from 1; 0 means the whole file."""

    file: str
    line: int
    column: int
    path: str  # as a person writes it: nodes[2].gpus
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        where = f"  {self.path}:" if self.path else " "
        return f"{place}{where} {self.message}" + (f" {self.hint}" if self.hint else "")


class InventoryError(InputError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = tuple(problems)


class UnknownNameError(InputError):
    """`known`: what to name where nothing is near."""

    def __init__(
        self, kind: str, name: str, nearest: Sequence[str] = (), *, hint: str = "", known: Sequence[str] = ()
    ) -> None:
        near = f" Nearest: {', '.join(nearest)}." if nearest else ""
        if known and not nearest and not hint:
            more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
            hint = f"Known: {', '.join(known[:MOST_NAMED])}{more}."
        super().__init__(f'"{name}" is no known {kind}.{near}', hint=hint)
        self.nearest = tuple(nearest)


class ModelError(InputError):
    pass


class PlanError(FleetError):
    pass


class StateError(FleetError):
    pass


class BrokenStateError(StateError):
    pass


class TransportError(FleetError):
    """`heals`: whether it may go away by itself, as a refused connection does and a wrong key does not."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", node: str = "", heals: bool = False) -> None:
        super().__init__(message, hint=hint, node=node)
        self.heals = heals


class HostKeyError(TransportError):
    pass


class AuthError(TransportError):
    pass


class SudoError(AuthError):
    pass


class DeadlineError(TransportError):
    pass


class LockedError(FleetError):
    exit_code = 4


class CommandError(FleetError):
    pass


class HealthError(FleetError):
    pass


class NodesError(FleetError):
    """What failed on which node, after every node was given its chance."""

    def __init__(self, doing: str, errors: Sequence[FleetError]) -> None:
        lines = "\n".join(dict.fromkeys(str(e) for e in errors))
        count = len({e.node for e in errors if e.node}) or len(errors)  # one node may have several things wrong
        super().__init__(f"{doing} failed on {count} node{'s' * (count != 1)}:\n{lines}")
        self.errors = tuple(errors)
        self.exit_code = max((e.exit_code for e in errors), default=1)
