"""What comes of what `llmfleet bench` measured: the estimate beside it, calibration.yaml, pictures, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmfleet.cli.output import console, counted, echo_json
from llmfleet.cli.workspace import workspace_folder
from llmfleet.launch.bench.measure import Knee, Measured
from llmfleet.planner.errors import FleetError, InputError

if TYPE_CHECKING:
    from llmfleet.cli.bench_asked import Asked
    from llmfleet.launch.bench.compare import Compared
    from llmfleet.launch.bench.startup import Startup
    from llmfleet.launch.fleet import Fleet
    from llmfleet.planner.inventory.model import Inventory
    from llmfleet.planner.plan import Instance
    from llmfleet.planner.speed.measurements import Measurement

FEW = 0.01  # of the requests


@dataclass(frozen=True, slots=True)
class Taken:
    """`measurement`: of an instance that has its GPUs for itself, of a run that says something of it."""

    asked: Asked
    result: Measured | Knee
    measurement: Measurement | None = None


def taken(asked: Asked, result: Measured | Knee, inventory: Inventory | None, fleet: Fleet | None) -> Taken:
    """With what the engine says of itself; in its log too where `fleet` says how its node is reached."""
    from llmfleet.launch.bench.calibrate import measurement

    instance = asked.instance
    if inventory is None or instance is None or not whole(instance) or isinstance(result, Knee):
        return Taken(asked, result)
    if limited(result) or failed(result):
        return Taken(asked, result)
    startup = _startup(asked, instance, fleet) if instance.engine == "vllm" else None
    return Taken(asked, result, measurement(inventory, instance, result.figures, startup))


def _startup(asked: Asked, instance: Instance, fleet: Fleet | None) -> Startup:
    from llmfleet.launch.bench.startup import from_metrics, with_log

    known = from_metrics(asked.target.where)
    try:
        return with_log(known, fleet, instance.id) if fleet else known
    except FleetError as error:
        typer.echo(f"the log of {instance.id} was not read: {error.message}", err=True)
        return known


def report(
    found: Sequence[Taken], fleet: Inventory | None, path: Path, *,
    html: Path | None, svg: Path | None, calibrate: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """`path`: the inventory's."""
    compared = compared_with(found, fleet, path) if fleet is not None else []
    write_plots(found, html, svg)
    show([t.result for t in found], compared, as_json=as_json, quiet=quiet)
    if calibrate and fleet is not None:
        write_measured(found, fleet, path, quiet=quiet or as_json)


def compared_with(all_taken: Sequence[Taken], fleet: Inventory, path: Path) -> list[Compared]:
    from llmfleet.cli.calibration import catalog_for
    from llmfleet.launch.bench.compare import compare
    from llmfleet.launch.models.services import service_models

    models = service_models(fleet, path)
    catalog = catalog_for(path, models.values())
    pairs = [(t.measurement, t.asked.instance) for t in all_taken]
    found = [compare(m, instance, models[instance.service], catalog) for m, instance in pairs if m and instance]
    known = [compared for compared in found if compared]
    _remember(known, path)
    return known


def _remember(compared: list[Compared], path: Path) -> None:
    """For `plan --accuracy`: one line a comparison."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from llmfleet.launch.bench.compare import ACCURACY

    if compared:
        folder = workspace_folder(path)
        folder.mkdir(exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with (folder / ACCURACY).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"at": now, **asdict(c)}) + "\n" for c in compared)


def write_measured(all_taken: Sequence[Taken], fleet: Inventory, path: Path, *, quiet: bool) -> None:
    from llmfleet.cli.calibration import FILE_NAME
    from llmfleet.launch.bench.calibrate import throughput, write_calibration

    made = [t.measurement for t in all_taken if t.measurement]
    knees = [(t.asked, t.result) for t in all_taken if isinstance(t.result, Knee)]
    found = [
        throughput(fleet, asked.instance, asked.plan.shape, knee)
        for asked, knee in knees if asked.instance and whole(asked.instance)
    ]  # fmt: skip
    tables = [table for table in found if table]
    if not made and not tables:
        raise InputError(
            "nothing was measured that could calibrate",
            hint="Errors, the client's own limits, knees without an SLO and shared GPUs rule it out.",
        )
    target = path.resolve().parent / FILE_NAME
    count = write_calibration(target, made, tables)
    if not quiet:
        held = counted(count, "measurement")
        typer.echo(f"{target} holds {held}. next: llmfleet plan · llmfleet router reload", err=True)


def whole(instance: Instance) -> bool:
    """How fast a part of a GPU is depends on what the others on it do: it says nothing about its class."""
    return instance.gpu_share == 1


def limited(result: Measured | Knee) -> bool:
    """A knee may end at the client: it says so, and has what it found until then."""
    return isinstance(result, Measured) and result.figures.client_limited is not None


def failed(result: Measured) -> bool:
    """More than a request in a hundred: those that were answered then say little of the engine."""
    return sum(result.figures.errors.values()) > FEW * result.figures.requests


def write_plots(all_taken: Sequence[Taken], html: Path | None, svg: Path | None) -> None:
    from llmfleet.launch.bench.plot import latency_svg, page

    if html is None and svg is None:
        return
    pictures = []
    for t in all_taken:
        points = t.result.points if isinstance(t.result, Knee) else (t.result.figures,)
        pictures.append(latency_svg(t.asked.target.name, points, t.asked.plan.limits))
    for path, text in ((html, page("llmfleet bench", pictures)), (svg, pictures[0])):
        if path is not None:
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}") from None


def show(results: list[Measured | Knee], compared: list[Compared], *, as_json: bool, quiet: bool) -> None:
    from llmfleet.cli.render.bench import document, render_compared, render_knee, render_measured

    if as_json:
        echo_json(document(results, compared))
        return
    if quiet:
        return
    screen = console()
    measured = [r for r in results if isinstance(r, Measured)]
    if measured:
        render_measured(measured, screen)
    for knee in (r for r in results if isinstance(r, Knee)):
        render_knee(knee, screen)
    if compared:
        render_compared(compared, screen)
