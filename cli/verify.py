"""plan --verify: the formula's answer beside a simulation of the same traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfleet.planner.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

    from llmfleet.planner.simulate.report import Report
    from llmfleet.planner.simulate.verify import Verified

REQUESTS = 50_000


def verified_json(inventory: Path, plan: Plan) -> dict[str, Any]:
    from pydantic import TypeAdapter

    rows, report = _verified(inventory, plan)
    simulated = TypeAdapter(type(report)).dump_python(report, mode="json")
    services = [TypeAdapter(type(row)).dump_python(row, mode="json") | {"agree": row.agree} for row in rows]
    return {"verify": {"source": "simulated", "services": services, "simulated": simulated}}


def render_verified(inventory: Path, plan: Plan, console: Console) -> None:
    from llmfleet.cli.render.simulate import render_verify

    rows, report = _verified(inventory, plan)
    render_verify(rows, report, plan, console)


def _verified(inventory: Path, plan: Plan) -> tuple[tuple[Verified, ...], Report]:
    from llmfleet.cli.simulate import decided, simulated
    from llmfleet.planner.simulate.simulate import Scenario
    from llmfleet.planner.simulate.verify import verify

    decision, _ = decided(inventory)
    report = simulated(decision, plan, Scenario(requests=REQUESTS), label="verify", quiet=False)
    return verify(decision, plan, report), report
