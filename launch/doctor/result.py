"""What a check found, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`detail` says what was found, `why` what depends on it, `hint` what to do about it; ok needs no hint."""

    name: str
    status: Status
    detail: str
    why: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The name of a check, and what depends on it."""

    name: str
    why: str

    def ok(self, detail: str) -> CheckResult:
        return CheckResult(self.name, "ok", detail, self.why)

    def warn(self, detail: str, hint: str) -> CheckResult:
        return CheckResult(self.name, "warn", detail, self.why, hint)

    def fail(self, detail: str, hint: str) -> CheckResult:
        return CheckResult(self.name, "fail", detail, self.why, hint)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Of a node that was not reached, the one result says why."""

    name: str
    host: str
    reached: bool
    results: tuple[CheckResult, ...]

    def count(self, status: Status) -> int:
        return sum(r.status == status for r in self.results)


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """`ok`: no check failed, and every node was reached."""

    ok: bool
    nodes: tuple[NodeReport, ...]

    @property
    def unreachable(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.nodes if not n.reached)
