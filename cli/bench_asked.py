"""What `llmfleet bench` is to measure: an address that was typed, or the plan's, with prompts like the inventory's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmfleet.cli.workspace import workspace_folder
from llmfleet.launch.bench.client import address
from llmfleet.launch.bench.figures import Limits
from llmfleet.launch.bench.measure import Plan, Target
from llmfleet.launch.bench.prompts import Shape
from llmfleet.launch.named_files import read_named
from llmfleet.planner.errors import InputError

if TYPE_CHECKING:
    from llmfleet.cli.bench_options import Options
    from llmfleet.planner.inventory.model import Inventory
    from llmfleet.planner.plan import Instance
    from llmfleet.planner.plan import Plan as FleetPlan


@dataclass(frozen=True, slots=True)
class Asked:
    """A target, how it is measured, and the instance that it is, if it is one."""

    target: Target
    plan: Plan
    instance: Instance | None = None


def _instances_answer(cluster: str, inventory: Path) -> None:
    """Raises InputError where no instance has an address of its own."""
    from llmfleet.launch.record.state import StateStore

    if StateStore(workspace_folder(inventory), cluster).value.runtime == "ray-serve":
        hint = "llmfleet bench --router measures the fleet as clients see it."
        raise InputError("the engines run in Ray Serve, which has no address for each", hint=hint)


def from_url(url: str, model: str | None, task: str, o: Options) -> list[Asked]:
    if not model:
        raise InputError("--url needs --model", hint="curl URL/v1/models lists the names.")
    if task not in ("generate", "chat", "embed", "rerank"):
        raise InputError(f"--task {task}: generate, chat, embed or rerank")
    shape = Shape(o.input_len or 500, o.input_p99, o.output_len or 128, None, o.shared or 0.0, o.documents)
    target = Target(model, address(url), model, task, _key(o.key_env))
    return [Asked(target, _plan(o, shape, Limits(o.ttft, o.tpot)))]


def from_plan(
    fleet: Inventory | None, plan: FleetPlan | None, names: list[str] | None, router: bool, o: Options, inventory: Path
) -> list[Asked]:
    from llmfleet.launch.bench.targets import instance_targets, router_targets

    names = names or []
    assert fleet is not None and plan is not None  # noqa: S101 - without --url there is an inventory
    if router:
        made: list[tuple[Instance | None, Target]] = [(None, t) for t in router_targets(plan, names, _key(o.key_env))]
    else:
        _instances_answer(fleet.cluster, inventory)
        made = list(instance_targets(fleet, plan, names))
    return [_asked(fleet, plan, instance, target, o) for instance, target in made]


def _asked(fleet: Inventory, plan: FleetPlan, instance: Instance | None, target: Target, o: Options) -> Asked:
    """Lengths as the inventory has them, unless they were typed."""
    service = fleet.service(instance.service if instance else target.model)
    traffic = service.traffic
    longest = min((i.max_model_len for i in plan.instances if i.service == service.name), default=None)
    shape = Shape(
        input_mean=o.input_len or (traffic.input.mean if traffic else 1000),
        input_p99=o.input_p99 or (traffic.input.p99 if traffic and not o.input_len else None),
        output_mean=o.output_len or (traffic.output.mean if traffic else 200),
        shared=o.shared if o.shared is not None else (traffic.shared_prefix if traffic else 0.0),
        documents=o.documents,
        longest=instance.max_model_len - 64 if instance else longest,
    )
    slo = service.slo
    return Asked(target, _plan(o, shape, Limits(slo.ttft, slo.tpot, slo.percentile)), instance)


def _plan(o: Options, shape: Shape, limits: Limits) -> Plan:
    text = read_text(o.text) if o.text else None
    return Plan(shape, limits, o.requests, o.warm, o.repeats, o.seed, text)


def read_text(path: Path) -> str:
    try:
        return read_named(path).decode(errors="replace")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise InputError(f"the environment has no {variable}", hint=f"export {variable}=… first")
    return os.environ[variable]
