"""Runs that came after the model was made: how far off it was untouched, and what it says now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean

from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import FleetError
from tests.accuracy.speed_rows import HELD_OUT, Run, read_runs

TITLE = f"{'part':<46} {'untouched':>22} {'now':>22}"
Figures = Mapping[str, float | bool | str]


def fresh() -> list[Run]:
    return list(read_runs(HELD_OUT))


def table(runs: Sequence[Run]) -> list[str]:
    """Errors are means of absolute relative ones; beside each how many runs it is of."""
    before: list[Figures] = [run.facts["untouched"] for run in runs]
    now = [figures(run) for run in runs]
    lines = [TITLE, _line("model, GPU and options known", *(f"{_known(f)} of {len(runs)}" for f in (before, now)))]
    for kind, name, chosen in _groups(runs):
        lines.append(_line(f"{name}", *(_mean(_of(found, chosen, kind)) for found in (before, now))))
    judged = [i for i, run in enumerate(runs) if run.judged]
    inside = [_of(found, judged, "ttft") for found in (before, now)]
    lines.append(_line("TTFT inside its range", *(f"{mean(f):.1%} of {len(f)}" for f in inside)))
    return lines


def figures(run: Run) -> dict[str, float | bool | str]:
    """Relative and signed errors of TPOT and of output tokens/s, and whether TTFT is inside its range."""
    if catalog().model(run.facts["model"]) is None:
        return {"refused": "the model is not known"}
    try:
        found = {kind: run.error(kind) for kind in ("tpot", "tokens")} | {"ttft": run.ttft_inside}
    except FleetError as error:
        return {"refused": error.message}
    return {kind: value for kind, value in found.items() if value is not None}


def _groups(runs: Sequence[Run]) -> Iterable[tuple[str, str, list[int]]]:
    """What is averaged, its name, and which runs: those with a stated load, then those that came all at once."""
    known = [i for i, run in enumerate(runs) if catalog().model(run.facts["model"]) is not None]
    for metric, name in (("tpot", "TPOT"), ("tokens", "output tokens/s")):
        for kind in ("dense", "MoE"):
            for several in (False, True):
                cards = "several GPUs" if several else "one GPU"
                chosen = [
                    i for i in known
                    if runs[i].judged and runs[i].kind == kind and (runs[i].shape.gpus > 1) == several
                ]  # fmt: skip
                yield metric, f"{name}, {kind}, {cards}", chosen
    bursts = [i for i in known if "burst" in runs[i].facts["load"] and "odd" not in runs[i].facts]
    yield "tpot", "TPOT, all requests at once", bursts


def _known(found: Sequence[Figures]) -> int:
    return sum("refused" not in f for f in found)


def _of(found: Sequence[Figures], chosen: Iterable[int], kind: str) -> list[float]:
    return [abs(float(found[i][kind])) for i in chosen if kind in found[i]]


def _mean(errors: Sequence[float]) -> str:
    return f"{mean(errors):.1%} of {len(errors)}" if errors else "–"


def _line(part: str, before: str, now: str) -> str:
    return f"{part:<46} {before:>22} {now:>22}"


def furthest(runs: Sequence[Run], worst: Callable[[Sequence[Run], int], list[str]]) -> list[str]:
    known = [run for run in runs if run.judged and "refused" not in figures(run)]
    return worst(known, 10)
