"""llmfleet simulate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmfleet.cli.calibration import catalog_for
from llmfleet.cli.options import DEFAULT_INVENTORY, Json, Quiet
from llmfleet.cli.output import console, echo_json
from llmfleet.cli.workspace import read_inventory
from llmfleet.launch.models.services import service_models
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.make import decided as decide_fleet
from llmfleet.planner.make import written_down
from llmfleet.planner.near import nearest
from llmfleet.planner.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmfleet.planner.simulate.report import Report
    from llmfleet.planner.simulate.requests import Stream
    from llmfleet.planner.simulate.simulate import Scenario

PolicyName = Literal["router", "round-robin", "least-request", "weights", "affinity", "all"]


def simulate(
    inventory: Annotated[Path, typer.Argument(metavar="INVENTORY", help="The fleet's inventory.")] = DEFAULT_INVENTORY,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=1, max=20_000_000, help="How many, of all services together.")
    ] = 100_000,
    load: Annotated[float, typer.Option("--load", min=0.001, max=1000, help="Times the peak of the inventory.")] = 1.0,
    trace: Annotated[
        list[str] | None, typer.Option("--trace", metavar="SERVICE=FILE", help="A trace's requests; may be repeated.")
    ] = None,
    policy: Annotated[PolicyName, typer.Option("--policy", help="How the router chooses; all: compare.")] = "router",
    documents: Annotated[
        int, typer.Option("--documents", min=1, max=1_000_000, help="That prompts share their beginnings with.")
    ] = 20,
    window: Annotated[
        int | None, typer.Option("--window", min=1, help="Tokens of a prompt that decide where it goes.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds, equal runs.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the plan's traffic through simulated engines and router.

    Takes seconds, touches no node and starts nothing. Engines batch, cache prefixes, queue and preempt as vLLM does,
    at the speed that the plan expects; so it shows what queues, bursts and cache misses do to the plan, not whether its
    speed estimates are right. Exit code 1 where a service misses its SLO.

    \b
    Traces: TIMESTAMP,ContextTokens,GeneratedTokens (Azure) or JSON lines with hash_ids (Mooncake). --load makes
    them that much faster.

    \b
    Examples:
      llmfleet simulate                                    ./inventory.yaml at its peak
      llmfleet simulate --load 1.5 --documents 1000        more traffic, prompts that share less
      llmfleet simulate --policy all                       the router against simpler ones
      llmfleet simulate --trace chat=conversation.jsonl --json
    """
    from llmfleet.cli.render.simulate import render_comparison, render_simulated
    from llmfleet.planner.simulate.fleet import POLICIES
    from llmfleet.planner.simulate.simulate import Scenario

    decision, plan = decided(inventory)
    policies = POLICIES if policy == "all" else (policy,)
    streams = traced(decision, trace or (), load=load, documents=documents, window=window, seed=seed)
    made = []
    for one in policies:
        scenario = Scenario(
            requests=requests, load=load, documents=documents, policy=one, seed=seed, streams=streams
        )
        made.append(simulated(decision, plan, scenario, label=one, quiet=quiet or as_json))
    if as_json:
        echo_json({"source": "simulated", "plan": plan.hash, "runs": [document(report) for report in made]})
    elif not quiet:
        show = console()
        if len(made) == 1:
            render_simulated(made[0], plan, show)
        else:
            render_comparison(made, show)
    if any(service.slo_met is False for report in made[:1] for service in report.services):
        raise typer.Exit(1)


def decided(inventory: Path) -> tuple[Decision, Plan]:
    """The plan that the inventory gives now, and what stands behind it."""
    fleet = read_inventory(inventory)
    models = service_models(fleet, inventory)
    decision = decide_fleet(fleet, models, catalog_for(inventory, models.values()))
    return decision, written_down(decision)


def traced(
    decision: Decision, given: Sequence[str], *, load: float, documents: int, window: int | None, seed: int
) -> dict[str, Stream]:
    """Raises InputError for a file that is no trace, UnknownNameError for a service that the inventory lacks."""
    import numpy as np

    from llmfleet.launch.traffic_files import trace_of
    from llmfleet.planner.simulate.requests import replayed

    demands = {d.service.name: d for d in decision.demands}
    found = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals:
            raise InputError(f"--trace {text}: which service's is it?", hint="--trace SERVICE=FILE")
        if name not in demands:
            raise UnknownNameError("service", name, nearest(name, demands), known=[*demands])
        trace = trace_of(Path(file).expanduser())
        rng = np.random.default_rng([seed, *name.encode()])
        found[name] = replayed(demands[name], trace, rng, speed=load, documents=documents, window=window)
    return found


def simulated(decision: Decision, plan: Plan, scenario: Scenario, *, label: str, quiet: bool) -> Report:
    from llmfleet.planner.simulate.simulate import simulate as run

    with _bar(label, quiet=quiet) as progress:
        return run(decision, plan, scenario, progress)


def document(report: Report) -> dict[str, object]:
    from pydantic import TypeAdapter

    body: dict[str, object] = TypeAdapter(type(report)).dump_python(report, mode="json")
    return body


@contextmanager
def _bar(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for what takes longer than a second; the first run ever also compiles."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:
        yield None
        return
    columns = (TextColumn("simulating · {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
