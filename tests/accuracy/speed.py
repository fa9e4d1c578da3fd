"""How far speeds lie from what others measured; is that near enough?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from tests.accuracy import speed_fresh
from tests.accuracy.report import Section, Target, block
from tests.accuracy.speed_held_out import TITLE, HeldOut, held_out
from tests.accuracy.speed_plot import scatter
from tests.accuracy.speed_rows import METRICS, Run, read_runs
from tests.accuracy.speed_words import WORDS


def section() -> Section:
    runs = list(read_runs())
    judged = [run for run in runs if run.judged]
    with_tpot = [run for run in judged if run.measured("tpot")]
    dense, moe = (held_out([r for r in with_tpot if r.kind == kind]) for kind in ("dense", "MoE"))
    found = targets(judged) + one_point(dense)
    fresh = speed_fresh.fresh()
    text = WORDS.format(
        count=len(runs),
        judged=len(judged),
        odd=sum("odd" in run.facts for run in runs),
        bursts=sum("burst" in run.facts["load"] for run in runs),
        others=sum(run.facts["engine"] != "vllm" for run in runs),
        targets=block(found),
        dense=block([TITLE, *dense]),
        moe=block([TITLE, *moe]),
        tables="\n\n".join(block(by(judged, name, key)) for name, key in GROUPS),
        beyond=block(by([r for r in runs if not r.judged and "odd" not in r.facts], "set, engine, load", _beyond)),
        worst="\n".join(worst(judged)),
        fresh_count=len(fresh),
        fresh_odd=sum("odd" in run.facts for run in fresh),
        fresh=block(speed_fresh.table(fresh)),
        fresh_worst="\n".join(speed_fresh.furthest(fresh, worst)),
    )
    return Section("Speed", text, found, plots(judged))


def targets(runs: Sequence[Run]) -> tuple[Target, ...]:
    dense, moe = ([r for r in runs if r.kind == kind] for kind in ("dense", "MoE"))
    medians = [r for r in runs if "ttft_ms_median" in r.facts["measured"]]
    means = [r for r in runs if "ttft_ms_median" not in r.facts["measured"]]
    widest = max(r.estimate.ttft_ms_range[1] / r.estimate.ttft_ms_range[0] for r in runs)
    return (
        _mean("TPOT, dense, no calibration", dense, "tpot", 0.15),
        _mean("TPOT, MoE, no calibration", moe, "tpot", 0.25),
        _mean("output tokens/s, dense", dense, "tokens", 0.15),
        _inside("TTFT, median", medians),
        _inside("TTFT, mean or not stated which", means),
        Target("TTFT", "widest range, high / low", widest, 3.0, at_least=False),
    )


def one_point(found: Sequence[HeldOut]) -> tuple[Target, ...]:
    runs = sum(h.runs for h in found)
    known = sum(h.runs * h.known_and_point for h in found) / runs
    unknown = sum(h.runs * h.unknown_and_point for h in found) / runs
    return (
        Target("TPOT, dense, one point a class", f"mean error of {runs}, class known before", known, 0.09, False),
        Target("TPOT, dense, one point a class", "the same, class not known before", unknown, 0.09, False),
    )


def _mean(part: str, runs: Sequence[Run], metric: str, limit: float) -> Target:
    errors = [abs(e) for run in runs if (e := run.error(metric)) is not None]
    return Target(part, f"mean error of {len(errors)}", mean(errors), limit, at_least=False)


def _inside(part: str, runs: Sequence[Run]) -> Target:
    found = [inside for run in runs if (inside := run.ttft_inside) is not None]
    return Target(part, f"inside the range, of {len(found)}", mean(found), 0.75, at_least=True)


def by(runs: Sequence[Run], name: str, key: Callable[[Run], str]) -> list[str]:
    """Rows, mean error and bias of TPOT and of output tokens/s, and how often TTFT is inside its range."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    lines = [f"{name:<40} rows     TPOT   bias   tokens/s   bias   TTFT inside"]
    for group, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        tpot, tokens, _ = ([e for run in members if (e := run.error(metric)) is not None] for metric in METRICS)
        inside = [run.ttft_inside for run in members if run.ttft_inside is not None]
        within = f"{mean(inside):6.0%} of {len(inside)}" if inside else "     –"
        lines.append(f"{group:<40} {len(members):>4} {_errors(tpot)}  {_errors(tokens)}  {within}")
    return lines


def _errors(errors: Sequence[float]) -> str:
    return f"{mean(map(abs, errors)):8.1%} {mean(errors):+6.0%}" if errors else "       –      –"


def _family(run: Run) -> str:
    return f"{run.model.architecture.removesuffix('ForCausalLM')} ({run.kind})"


def _beyond(run: Run) -> str:
    load = "all at once" if "burst" in run.facts["load"] else "clients"
    return f"{run.facts['set']}, {run.facts['engine']}, {load}, {run.kind}"


GROUPS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("set", lambda run: f"{run.facts['set']} ({run.kind})"),
    ("GPU", lambda run: f"{run.gpu} ({run.kind})"),
    ("architecture", _family),
    ("release", lambda run: ".".join((run.facts["version"] or "not stated").split(".")[:2])),
    ("GPUs side by side", lambda run: f"TP{run.shape.tp} ({run.kind})"),
    ("load", lambda run: "at a rate" if run.load.rate else f"{run.load.concurrency:g} clients"),
)


def worst(runs: Sequence[Run], count: int = 15) -> list[str]:
    errors = [(abs(e), e, run) for run in runs if (e := run.error("tpot")) is not None]
    lines = []
    for _, error, run in sorted(errors, key=lambda item: -item[0])[:count]:
        load = f"{run.load.rate:g}/s" if run.load.rate else f"{run.load.concurrency:g} clients"
        lengths = f"{run.load.input_len:.0f} + {run.load.output_len:.0f}"
        measured = run.measured("tpot")
        lines.append(
            f"| {run.id} | TP{run.shape.tp} | {lengths} | {load} | {run.estimate.tpot_ms:.1f} | {measured:.1f} "
            f"| {error:+.0%} |"
        )
    return lines


def plots(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    made = []
    for name, metric, unit in (
        ("validation-tpot.svg", "tpot", "ms a token"),
        ("validation-tokens.svg", "tokens", "output tokens/s"),
        ("validation-ttft.svg", "ttft", "ms to the first token"),
    ):
        said = {"tpot": "tpot_ms", "tokens": "output_tokens_per_s", "ttft": "ttft_ms"}[metric]
        dots = [(v, getattr(r.estimate, said), r.id, r.kind) for r in runs if (v := r.measured(metric))]
        made.append((name, scatter(dots, unit)))
    return tuple(made)
