"""What goes wrong during a rehearsal, and when: `a800-0@30s`, `chat-h20-0-0@10s+20s`, `h20-0@30s:3x`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.near import nearest
from llmfleet.planner.plan import Plan

Kind = Literal["kill", "freeze", "slow"]
FORM = re.compile(r"(?P<who>[A-Za-z0-9._-]+)@(?P<at>[0-9.]+)s(?:\+(?P<span>[0-9.]+)s)?(?::(?P<factor>[0-9.]+)x)?")
SLOWER = 3.0
SHOWN = 3  # instances named, of a node that holds many


@dataclass(frozen=True, slots=True)
class Fault:
    """Seconds of the traffic's own time. `span_s` None: to the end. `factor`: of slow ones."""

    kind: Kind
    instances: tuple[str, ...]
    at_s: float
    span_s: float | None = None
    factor: float = SLOWER

    def __str__(self) -> str:
        what = {"kill": "killed", "freeze": "frozen", "slow": f"{self.factor:g} × slower"}[self.kind]
        shown = ", ".join(self.instances[:SHOWN]) + (", …" if len(self.instances) > SHOWN else "")
        span = f" for {self.span_s:g} s" if self.span_s is not None else ""
        return f"{what} at {self.at_s:g} s{span}: {shown}"


def faults(plan: Plan, kind: Kind, given: Iterable[str]) -> list[Fault]:
    """Raises InputError for what is no fault, UnknownNameError for nodes and instances that the plan lacks."""
    return [_fault(plan, kind, text) for text in given]


def require_within(wrong: Iterable[Fault], end_s: float) -> None:
    """Raises InputError for a fault that comes when the last request is sent or later: it would show nothing."""
    for fault in wrong:
        if fault.at_s >= end_s:
            hint = "Let it happen earlier, or send more --requests"
            raise InputError(f"{fault}: all requests are sent by {end_s:.0f} s", hint=hint)


def _fault(plan: Plan, kind: Kind, text: str) -> Fault:
    match = FORM.fullmatch(text)
    if match is None or (match["factor"] and kind != "slow") or (match["span"] and kind == "kill"):
        form = {"kill": "NODE@30s", "freeze": "NODE@30s+10s", "slow": "NODE@30s:3x"}[kind]
        raise InputError(f"--{kind} {text}: when does what happen to whom?", hint=f"For example --{kind} {form}")
    by_node = {n: tuple(i.id for i in plan.on_node(n)) for i in plan.instances for n in i.nodes}
    known = by_node | {i.id: (i.id,) for i in plan.instances}
    if match["who"] not in known:
        who = match["who"]
        raise UnknownNameError("node or instance of the plan", who, nearest(who, known), known=[*known])
    try:
        span = float(match["span"]) if match["span"] else None
        factor = float(match["factor"]) if match["factor"] else SLOWER
        return Fault(kind, known[match["who"]], float(match["at"]), span, max(0.01, factor))
    except ValueError:
        raise InputError(f"--{kind} {text}: {match['at']} is no number of seconds") from None
