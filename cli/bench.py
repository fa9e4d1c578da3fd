"""llmfleet bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmfleet.cli.bench_asked import Asked, from_plan, from_url
from llmfleet.cli.bench_options import (
    Calibrate,
    Documents,
    FindKnee,
    HtmlFile,
    InputLen,
    InputP99,
    KeyEnv,
    Model,
    Names,
    Options,
    OutputLen,
    Rate,
    Repeats,
    Requests,
    Router,
    Seed,
    Shared,
    SvgFile,
    Task,
    TextFile,
    Tpot,
    Trace,
    Ttft,
    Url,
    Users,
    Warm,
)
from llmfleet.cli.bench_results import limited, report, taken
from llmfleet.cli.options import DEFAULT_INVENTORY, InventoryOption, Json, Quiet
from llmfleet.cli.workspace import load_fleet, plan_path, read_inventory, read_plan
from llmfleet.launch.bench.measure import Bench, Knee, Load, Measured, Plan
from llmfleet.launch.events import silent
from llmfleet.launch.traffic_files import trace_of
from llmfleet.planner.errors import InputError

if TYPE_CHECKING:
    from llmfleet.launch.bench.stream import Sample

MODERATE = 0.5  # of what users in a loop get


def bench(
    names: Names = None,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    router: Router = False,
    url: Url = None,
    model: Model = None,
    task: Task = "generate",
    users: Users = None,
    rate: Rate = None,
    trace: Trace = None,
    knee: FindKnee = False,
    requests: Requests = 100,
    repeats: Repeats = 1,
    warm: Warm = 8,
    input_len: InputLen = None,
    output_len: OutputLen = None,
    input_p99: InputP99 = None,
    shared: Shared = None,
    documents: Documents = 20,
    text: TextFile = None,
    ttft: Ttft = None,
    tpot: Tpot = None,
    calibrate: Calibrate = False,
    html: HtmlFile = None,
    svg: SvgFile = None,
    key_env: KeyEnv = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what instances and router really do.

    Asks each instance at its own address (or, with --router, each service at the router's) with prompts as the
    inventory describes the traffic, and prints TTFT, TPOT, gaps between tokens, throughput and goodput beside the
    estimate for the same load. A figure that this client itself limited is refused: exit code 1.

    \b
    Examples:
      llmfleet bench                                     every instance, one after the other, as many users as planned
      llmfleet bench chat --users 16 --repeats 3 --calibrate
      llmfleet bench --router --users 100                the whole fleet
      llmfleet bench chat-a800-0-0 --knee --html knee.html
      llmfleet bench --url http://127.0.0.1:8000 --model m --rate 5 --input 500 --output 100
    """
    options = Options(
        users, rate, trace, requests, repeats, warm, input_len, output_len, input_p99, shared, documents, text, ttft,
        tpot, seed, key_env,
    )  # fmt: skip
    if url and (of_plan := [*(names or ()), *["--router"] * router]):
        raise InputError(f"--url measures that address alone, and {of_plan[0]} is of the plan", hint="Leave one out.")
    fleet, plan = (None, None) if url else (read_inventory(inventory), read_plan(plan_path(inventory), inventory))
    if calibrate and (url or router):
        raise InputError("--calibrate measures single instances", hint="Leave out --url and --router.")
    asked = from_url(url, model, task, options) if url else from_plan(fleet, plan, names, router, options, inventory)
    logs = load_fleet(inventory, silent) if calibrate else None
    how = partial(_one, o=options, knee=knee, calibrate=calibrate, quiet=quiet or as_json)
    found = [taken(one, how(one), fleet, logs) for one in asked]
    report(found, fleet, inventory, html=html, svg=svg, calibrate=calibrate, as_json=as_json, quiet=quiet)
    if any(limited(t.result) for t in found):
        raise typer.Exit(1)


def _one(asked: Asked, o: Options, *, knee: bool, calibrate: bool, quiet: bool) -> Measured | Knee:
    load, plan = o.load(asked.instance), asked.plan
    if o.trace is not None:
        load, plan = _traced(o.trace, plan)
    with _bar(asked.target.name, quiet=quiet) as progress:
        bench = Bench(asked.target, plan, progress)
        bench.look()
        if knee:
            capacity = asked.instance.capacity_rps if asked.instance else None
            return bench.knee(o.rate or capacity or 1.0)
        if calibrate and not o.loads:  # users in a loop queue together: that says little of how fast prompts are read
            load = Load(rate=MODERATE * bench.measure(load).figures.requests_per_s)
        return bench.measure(load)


def _traced(path: Path, plan: Plan) -> tuple[Load, Plan]:
    """The first `--requests` of the file, at their own times."""
    rows = trace_of(path)[: plan.requests]
    lengths = tuple((r.prompt, r.answer, r.blocks) for r in rows)
    return Load(arrivals=tuple(r.at for r in rows)), replace(plan, lengths=lengths)


@contextmanager
def _bar(name: str, *, quiet: bool) -> Iterator[Callable[[str, int, int, Sample | None], None]]:
    """Requests done, and the last TTFT, while it runs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda _name, _done, _total, _sample: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[last]}"))  # fmt: skip
    with Progress(*columns, console=screen, transient=True, refresh_per_second=4) as bars:
        task = bars.add_task(name, total=None, last="")

        def heard(what: str, done: int, total: int, sample: Sample | None) -> None:
            last = f"TTFT {sample.ttft_s * 1000:.0f} ms" if sample and sample.ok else (sample.error if sample else "")
            bars.update(task, description=f"{name} · {what}", completed=done, total=total, last=last)

        yield heard
