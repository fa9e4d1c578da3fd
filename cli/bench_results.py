"""What comes of what `llmfleet bench` measured: the estimate beside it, calibration.yaml, pictures, tables, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmfleet.cli.output import console, counted, echo_json
from llmfleet.cli.workspace import workspace_folder
from llmfleet.launch.bench.measure import Knee, Measured
from llmfleet.planner.errors import InputError

if TYPE_CHECKING:
    from llmfleet.cli.bench_asked import Asked
    from llmfleet.launch.bench.compare import Compared
    from llmfleet.planner.inventory.model import Inventory
    from llmfleet.planner.plan import Instance
    from llmfleet.planner.speed.measurements import Measurement


def calibrating(
    asked: list[Asked], results: list[Measured | Knee], fleet: Inventory
) -> list[tuple[Asked, Measurement]]:
    """What was measured of whole instances, with what their engines say of themselves."""
    from llmfleet.launch.bench.calibrate import kv_blocks, measurement

    found = []
    for one, result in zip(asked, results, strict=True):
        if one.instance is not None and whole(one.instance) and isinstance(result, Measured) and result.figures.ttft_ms:
            blocks = kv_blocks(one.target.where) if one.instance.engine == "vllm" else None
            found.append((one, measurement(fleet, one.instance, result.figures, blocks)))
    return found


def compared_with(measured: list[tuple[Asked, Measurement]], fleet: Inventory, path: Path) -> list[Compared]:
    from llmfleet.cli.calibration import catalog_for
    from llmfleet.launch.bench.compare import compare
    from llmfleet.launch.models.services import service_models

    models = service_models(fleet, path)
    catalog = catalog_for(path, models.values())
    found = []
    for one, made in measured:
        assert one.instance is not None  # noqa: S101 - `calibrating` has no others
        compared = compare(made, one.instance, models[one.instance.service], catalog)
        found += [compared] if compared else []
    _remember(found, path)
    return found


def _remember(compared: list[Compared], path: Path) -> None:
    """For `plan --accuracy`: one line a comparison."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from llmfleet.launch.bench.compare import ACCURACY

    if compared:
        folder = workspace_folder(path)
        folder.mkdir(exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with (folder / ACCURACY).open("a") as file:
            file.writelines(json.dumps({"at": now, **asdict(c)}) + "\n" for c in compared)


def write_measured(
    asked: list[Asked], results: list[Measured | Knee], fleet: Inventory, path: Path, *, quiet: bool
) -> None:
    from llmfleet.cli.calibration import FILE_NAME
    from llmfleet.launch.bench.calibrate import throughput, write_calibration

    sound = [(one, result) for one, result in zip(asked, results, strict=True) if not limited(result)]
    made = [m for _, m in calibrating([one for one, _ in sound], [result for _, result in sound], fleet)]
    tables = [
        table
        for one, result in sound
        if one.instance is not None and whole(one.instance) and isinstance(result, Knee)
        and (table := throughput(fleet, one.instance, one.plan.shape, result))
    ]  # fmt: skip
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


def write_plots(results: list[Measured | Knee], asked: list[Asked], html: Path | None, svg: Path | None) -> None:
    from llmfleet.launch.bench.plot import latency_svg, page

    if html is None and svg is None:
        return
    pictures = []
    for one, result in zip(asked, results, strict=True):
        points = result.points if isinstance(result, Knee) else (result.figures,)
        pictures.append(latency_svg(one.target.name, points, one.plan.limits))
    for path, text in ((html, page("llmfleet bench", pictures)), (svg, pictures[0])):
        if path is not None:
            try:
                path.write_text(text)
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
