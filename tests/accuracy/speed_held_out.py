"""What an estimate is worth for a GPU that nobody measured, and what one measured point makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

from llmfleet.planner.catalog import Catalog, catalog
from llmfleet.planner.catalog.types import Efficiency, Gpu
from llmfleet.planner.speed.calibration import calibrated
from tests.accuracy.speed_rows import Run

WAITED = 1000.0  # ms


@dataclass(frozen=True)
class HeldOut:
    """Mean TPOT error of one GPU's runs: as the catalogue has it, by others' efficiency, and with one point measured.

    `alone`: that point's estimate was by others' efficiency too.
    """

    gpu: str
    runs: int
    known: float
    unknown: float
    known_and_point: float
    unknown_and_point: float

    def __str__(self) -> str:
        values = (self.known, self.unknown, self.known_and_point, self.unknown_and_point)
        return f"{self.gpu:<16} {self.runs:>4}  " + "  ".join(f"{value:9.1%}" for value in values)


TITLE = f"{'GPU':<16} runs  {'known':>9}  {'unknown':>9}  {'+ 1 point':>9}  {'+ 1 point':>9}"


def held_out(runs: Sequence[Run]) -> list[HeldOut]:
    by_gpu: dict[str, list[Run]] = {}
    for run in runs:
        by_gpu.setdefault(run.gpu, []).append(run)
    return [_held_out(name, mine) for name, mine in sorted(by_gpu.items()) if len(mine) > 2]


def _held_out(name: str, runs: Sequence[Run]) -> HeldOut:
    usual = catalog()
    blind = usual.with_gpus([stranger(usual.gpu(name))])
    point = representative(runs)
    return HeldOut(
        name,
        len(runs),
        mean_error(runs, usual),
        mean_error(runs, blind),
        *(mean_error([r for r in runs if r is not point], calibrated(c, [point.measurement])) for c in (usual, blind)),
    )


def stranger(gpu: Gpu) -> Gpu:
    """As if it had never been measured: with the middle of what all other measured classes reach."""
    others = [g for g in catalog().gpus if g.calibrated and (g.arch, g.bandwidth_gbs) != (gpu.arch, gpu.bandwidth_gbs)]
    bandwidth, compute = (median(getattr(g.efficiency, key) for g in others) for key in ("bandwidth", "compute"))
    return replace(gpu, efficiency=Efficiency(bandwidth, compute, 0.0), calibrated=False)


def representative(runs: Sequence[Run]) -> Run:
    """The one that a careful person would measure: of the model with the most runs, the middle one of those whose
    requests did not have to wait.
    """
    runs = [run for run in runs if (run.measured("ttft") or 0) < WAITED] or runs
    count = {run.facts["model"]: sum(r.facts["model"] == run.facts["model"] for r in runs) for run in runs}
    most = max(count, key=lambda name: count[name])
    mine = sorted((r for r in runs if r.facts["model"] == most), key=lambda r: r.estimate.tpot_ms)
    return mine[len(mine) // 2]


def mean_error(runs: Sequence[Run], known: Catalog) -> float:
    return mean(abs(e) for run in runs if (e := run.error("tpot", run.predicted(known))) is not None)
