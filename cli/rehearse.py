"""llmfleet rehearse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, Json, Quiet
from llmfleet.cli.output import console, echo_json

Faults = list[str] | None
Kill = Annotated[Faults, typer.Option("--kill", metavar="NODE@30s", help="Instances die, as in a power cut.")]
Freeze = Annotated[Faults, typer.Option("--freeze", metavar="NODE@30s+10s", help="They do nothing for a while.")]
Slow = Annotated[Faults, typer.Option("--slow", metavar="NODE@30s:3x", help="Their steps take so much longer.")]


def rehearse(
    inventory: Annotated[Path, typer.Argument(metavar="INVENTORY", help="The fleet's inventory.")] = DEFAULT_INVENTORY,
    requests: Annotated[int, typer.Option("--requests", "-n", min=10, max=1_000_000, help="Of all services.")] = 2000,
    load: Annotated[float, typer.Option("--load", min=0.001, max=1000, help="Times the peak of the inventory.")] = 1.0,
    trace: Annotated[
        list[str] | None, typer.Option("--trace", metavar="SERVICE=FILE", help="A trace's requests; may be repeated.")
    ] = None,
    speed: Annotated[float, typer.Option("--speed", min=0.1, max=100, help="Times as fast as real time.")] = 1.0,
    kill: Annotated[
        Faults, typer.Option("--kill", metavar="NODE@30s", help="Instances die, as in a power cut.")
    ] = None,
    freeze: Freeze = None,
    slow: Slow = None,
    documents: Annotated[
        int, typer.Option("--documents", min=1, help="That prompts share their beginnings with.")
    ] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds, equal requests.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the plan on this machine, on simulated engines.

    Touches no node. Every instance is a process that speaks vLLM's HTTP API and metrics and takes the time that the
    plan expects; Envoy runs with the files that `up` would write; traffic comes over HTTP, and faults when you say so.
    Figures are simulated, and say so. Exit code 1 where a service misses its SLO or a request fails.

    \b
    Examples:
      llmfleet rehearse --speed 5                        2000 requests, five times as fast as they would come
      llmfleet rehearse --kill a800-0@30s                a machine dies after half a minute
      llmfleet rehearse --freeze h20-0@20s+15s --slow a800-1@40s:3x
      llmfleet rehearse --trace chat=conversation.jsonl --speed 3 --json
    """
    from llmfleet.cli.render.simulate import render_rehearsed
    from llmfleet.cli.simulate import decided, document, traced
    from llmfleet.launch.rehearse.faults import faults
    from llmfleet.launch.rehearse.rehearse import rehearse as run
    from llmfleet.planner.simulate.fleet import fleet_of
    from llmfleet.planner.simulate.simulate import Scenario

    decision, plan = decided(inventory)
    streams = traced(decision, trace or (), load=load, documents=documents, window=256, seed=seed)
    scenario = Scenario(requests=requests, load=load, documents=documents, seed=seed, streams=streams)
    wrong = [
        *faults(plan, "kill", kill or ()),
        *faults(plan, "freeze", freeze or ()),
        *faults(plan, "slow", slow or ()),
    ]
    with _bar(quiet=quiet or as_json) as (say, progress):
        done = run(
            plan, fleet_of(decision, plan), decision.demands, scenario, wrong, speed=speed, say=say, progress=progress
        )
    if as_json:
        rest = {"speed": done.speed, "errors": done.errors, "client_limited": done.client_limited}
        echo_json({**document(done.report), **rest, "faults": [str(fault) for fault in wrong]})
    elif not quiet:
        render_rehearsed(done.report, plan, wrong, done.errors, done.client_limited, console())
    if done.errors or done.client_limited or any(s.slo_met is False for s in done.report.services):
        raise typer.Exit(1)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda _text: None, lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, refresh_per_second=4) as bars:
        task = bars.add_task("rehearsing", total=None)
        yield (
            lambda text: bars.update(task, description=text),
            lambda done, total: bars.update(task, completed=done, total=total),
        )
