"""What an operation did, or in a dry run would do, as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from llmfleet.cli.output import counted, percent
from llmfleet.cli.progress import duration
from llmfleet.launch.results import CapacityLeft, ChangedStep, DownReport, DrainReport, UpReport
from llmfleet.planner.plan import Plan, ServicePlan, Task

QUESTIONS: dict[Task, tuple[str, dict[str, Any]]] = {
    "generate": ("chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    "embed": ("embeddings", {"input": "Hello"}),
    "rerank": ("rerank", {"query": "Hello", "documents": ["Good day", "Goodbye"]}),
}


def to_do(steps: Sequence[ChangedStep]) -> str:
    """Node by node, in the order of the run."""
    if not steps:
        return "Nothing to do."
    by_node: dict[str, list[ChangedStep]] = {}
    for step in steps:
        by_node.setdefault(step.node, []).append(step)
    width = max(len(s.phase) for s in steps)
    lines = []
    for node, own in by_node.items():
        lines += [node, *(f"  {s.phase:{width}}  {s.title}" for s in own)]
    lines.append(f"{counted(len(steps), 'step')} on {counted(len(by_node), 'node')} to do. Nothing was changed.")
    return "\n".join(lines)


def up_summary(report: UpReport, plan: Plan) -> str:
    url = f"{report.address}/v1"
    if not report.changed:
        return f"Nothing to do: the fleet is as planned. {url}"
    lines = [f"{counted(len(report.changed), 'step')} done in {duration(report.seconds)}. {url} is ready:"]
    if plan.services:
        lines += ["", curl(url, plan.services[0])]
    return "\n".join(lines)


def curl(url: str, service: ServicePlan) -> str:
    """A request that the service answers, ready to paste."""
    path, question = QUESTIONS[service.task]
    body = json.dumps({"model": service.name, **question})
    return f"  curl {url}/{path} -H 'Content-Type: application/json' \\\n    -d '{body}'"


def capacity(left: Iterable[CapacityLeft]) -> str:
    """What services keep; those that lose nothing are not mentioned."""
    lines = [
        f"  {c.service}: {c.instances_left} of {counted(c.instances_total, 'instance')}, {percent(c.share)} of capacity"
        for c in left
        if c.instances_left < c.instances_total
    ]
    return "\n".join(lines) or "  every service keeps all of its instances"


def drain_summary(report: DrainReport) -> str:
    if not report.changed:
        return f"{report.node} was drained already."
    what = counted(len(report.instances), "instance")
    if report.node in report.unreachable:
        return (
            f"{report.node} is out of rotation, and the router sends it nothing. It does not answer: whether "
            f"{', '.join(report.instances) or 'anything'} still runs there is not known.\n"
            f"When it is back: llmfleet undrain {report.node}. If it is gone for good: exclude it in the inventory, "
            f"plan, llmfleet up, and llmfleet down --forget {report.node}"
        )
    return (
        f"{report.node} is drained: {what} finished and stopped in {duration(report.seconds)}.\n"
        f"Put it back with: llmfleet undrain {report.node}"
    )


def down_summary(report: DownReport) -> str:
    if not report.stopped and not report.unreachable:
        return "Nothing to do: nothing of this fleet is running."
    lines = [f"{counted(len(report.stopped), 'step')} done in {duration(report.seconds)}."]
    if report.unreachable:
        names = ", ".join(report.unreachable)
        lines.append(f"Not reached, and still on record: {names}. Run llmfleet down again when they are back.")
    else:
        lines.append("Nothing of this fleet is running any more.")
    return "\n".join(lines)
