"""TTFT, TPOT and throughput against load, with the SLO's line: geometry for the page's charts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10

from llmfleet.cli.output import grouped
from llmfleet.cli.render.html.kinds import Kind
from llmfleet.cli.render.plan_tables import rate_text, time_text
from llmfleet.planner.curves import Curve, Point

WIDTH, HEIGHT = 360.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 14.0, 34.0
TICKS = 4
BEYOND = 1.6  # of the limit, or of the value at capacity: what is above is cut off

Value = Callable[[Point], float]


@dataclass(frozen=True, slots=True)
class Mark:
    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    kind: Kind
    dash: int  # which of the service's lines it is
    path: str
    mean: str  # the path of the mean, where the line is a tail
    planned: Mark | None
    capacity: Mark | None
    samples: tuple[tuple[float, float, str], ...]  # x, y, what it says there


@dataclass(frozen=True, slots=True)
class Limit:
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    lines: tuple[Line, ...]
    limits: tuple[Limit, ...]
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ServiceCharts:
    service: str
    percentile: float
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Aspect:
    """What a chart is of. `limit` is a curve's; `text` says a value."""

    title: str
    tail: Value
    mean: Value | None
    limit: Callable[[Curve], float | None]
    text: Callable[[float], str]


def charts_of(curves: Sequence[Curve], kinds: Sequence[Kind]) -> list[ServiceCharts]:
    """By service. An instance in a curve says which kind the curve belongs to."""
    kind_of = {i.id: kind for kind in kinds for i in kind.instances}
    by_service: dict[str, list[tuple[Curve, Kind]]] = {}
    for curve in curves:
        if curve.instances[0] in kind_of:
            by_service.setdefault(curve.service, []).append((curve, kind_of[curve.instances[0]]))
    return [
        ServiceCharts(name, mine[0][0].percentile, tuple(_chart(aspect, mine) for aspect in _aspects(mine)))
        for name, mine in by_service.items()
    ]


def _aspects(mine: Sequence[tuple[Curve, Kind]]) -> Iterable[Aspect]:
    percentile = f"p{mine[0][0].percentile:g}"
    generates = mine[0][1].one.task == "generate"
    first = "Time to first token" if generates else "Time to the answer"
    yield Aspect(
        f"{first}, {percentile}", lambda p: p.ttft_tail_s, lambda p: p.ttft_s, lambda c: c.ttft_limit_s, _seconds
    )
    if generates:
        yield Aspect(
            f"Time per token, {percentile}", lambda p: p.tpot_tail_s, lambda p: p.tpot_s, lambda c: c.tpot_limit_s,
            _seconds,
        )  # fmt: skip
    yield Aspect(
        "Output tokens a second" if generates else "Input tokens a second",
        lambda p: p.tokens_s, None, lambda _: None, lambda v: f"{rate_text(v)}/s",
    )  # fmt: skip


def _seconds(value: float) -> str:
    return time_text(1000 * value)


def _chart(aspect: Aspect, mine: Sequence[tuple[Curve, Kind]]) -> Chart:
    most_x = max(curve.points[-1].rate for curve, _ in mine) * 1.03
    most_y = _top(aspect, [curve for curve, _ in mine])
    x, y = _scale(most_x, LEFT, WIDTH - RIGHT), _scale(most_y, HEIGHT - BOTTOM, TOP)
    lines = tuple(_line(aspect, curve, kind, i, x, y, most_y) for i, (curve, kind) in enumerate(mine))
    limits: dict[float, list[str]] = {}
    for curve, kind in mine:
        if (limit := aspect.limit(curve)) and limit <= most_y:
            limits.setdefault(limit, []).append(kind.group.shape)
    return Chart(
        title=aspect.title,
        lines=lines,
        limits=tuple(
            Limit(y(value), f"SLO {aspect.text(value)}" + (f" for {', '.join(shapes)}" if len(limits) > 1 else ""))
            for value, shapes in limits.items()
        ),
        x_ticks=tuple(Mark(x(v), HEIGHT - BOTTOM, _plain(v)) for v in _ticks(most_x)),
        y_ticks=tuple(Mark(LEFT, y(v), _plain_text(aspect, v)) for v in _ticks(most_y)),
    )


def _top(aspect: Aspect, curves: Sequence[Curve]) -> float:
    """The highest value that is shown: beyond saturation a latency has no bound."""
    if aspect.mean is None:
        return max(aspect.tail(p) for c in curves for p in c.points) * 1.08
    limits = [limit * BEYOND for c in curves if (limit := aspect.limit(c))]
    at_work = [aspect.tail(p) * BEYOND for c in curves for p in (c.planned, c.capacity) if p]
    idle = [aspect.tail(c.points[0]) * BEYOND for c in curves]
    return min(max(aspect.tail(p) for c in curves for p in c.points) * 1.08, max([*limits, *at_work, *idle])) or 1.0


def _line(
    aspect: Aspect, curve: Curve, kind: Kind, dash: int, x: Callable[[float], float], y: Callable[[float], float],
    most_y: float,
) -> Line:  # fmt: skip
    def says(p: Point) -> str:
        value = aspect.text(aspect.tail(p))
        mean = f" (mean {aspect.text(aspect.mean(p))})" if aspect.mean else ""
        return f"{rate_text(p.rate)} req/s: {value}{mean}"

    def mark(p: Point | None) -> Mark | None:
        return Mark(x(p.rate), y(aspect.tail(p)), says(p)) if p and aspect.tail(p) <= most_y else None

    return Line(
        kind=kind,
        dash=dash,
        path=_path(curve.points, x, y, aspect.tail, most_y),
        mean=_path(curve.points, x, y, aspect.mean, most_y) if aspect.mean else "",
        planned=mark(curve.planned),
        capacity=mark(curve.capacity),
        samples=tuple(
            (round(x(p.rate), 1), round(y(aspect.tail(p)), 1), says(p))
            for p in curve.points
            if aspect.tail(p) <= most_y
        ),
    )


def _path(
    points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float], value: Value, most_y: float
) -> str:
    """Up to where it leaves the picture, which it does at most once: all of these only grow with the load."""
    shown: list[tuple[float, float]] = []
    for before, p in zip((None, *points), points, strict=False):
        if value(p) <= most_y:
            shown.append((p.rate, value(p)))
            continue
        if before is not None:
            part = (most_y - value(before)) / (value(p) - value(before))
            shown.append((before.rate + part * (p.rate - before.rate), most_y))
        break
    return "M" + "L".join(f"{x(a):.1f},{y(b):.1f}" for a, b in shown) if shown else ""


def _scale(most: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * value / most


def _ticks(most: float) -> list[float]:
    """Round numbers up to the most, about as many as fit."""
    rough = most / TICKS
    base = 10.0 ** floor(log10(rough))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= rough)
    return [step * i for i in range(int(most / step) + 1)]


def _plain(value: float) -> str:
    if value < 1000:
        return f"{value:.3g}"
    return grouped(round(value)) if value < 10_000 else f"{value / 1000:.3g}k"


def _plain_text(aspect: Aspect, value: float) -> str:
    if aspect.text is not _seconds:
        return _plain(value)
    return "0" if not value else f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
