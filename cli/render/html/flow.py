"""Where requests go, as a picture: router, services, pools, kinds of instance, joined by ribbons.

A ribbon is as wide as its part of its service's requests. Services are drawn alike in height, since a request to embed
and one to generate cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmfleet.cli.output import percent
from llmfleet.cli.render.html.kinds import Kind
from llmfleet.cli.render.plan_tables import rate_text
from llmfleet.planner.plan import Plan, Pool, ServicePlan

DESK = 700  # from this width on there is room for labels beside the bars
ROW = {True: 46.0, False: 56.0}  # height that a labelled bar needs at least
GAP = {True: 26.0, False: 40.0}  # between services
BAR = {True: 12.0, False: 8.0}
LABEL = {True: 22.0, False: 2.0}  # room that a label needs beside a bar; on a phone it is above
LETTER = {True: 8.0, False: 7.0}  # width of a wide one
THIN = 1.5


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    y: float
    bold: str
    rest: str


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    service: str  # empty: the router
    title: str


@dataclass(frozen=True, slots=True)
class Ribbon:
    path: str
    service: str
    title: str
    faint: bool  # nobody asks for it now


@dataclass(slots=True)
class Flow:
    width: float
    height: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    ribbons: list[Ribbon] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    fallbacks: list[Ribbon] = field(default_factory=list)

    @property
    def wide(self) -> bool:
        return self.width >= DESK

    @property
    def columns(self) -> tuple[float, float, float, float]:
        """Left ends of the bars: router, service, pool, kind."""
        parts = (0.0, 0.17, 0.47, 0.76) if self.wide else (0.0, 0.1, 0.42, 0.7)
        x = [self.width * part for part in parts]
        return x[0], x[1], x[2], x[3]

    def label(self, column: int, y: float, bold: str, rest: str) -> None:
        """Beside a bar, on a phone above it; cut where the next column begins."""
        left, right = (*self.columns, self.width)[column : column + 2]
        if self.wide:
            room = int((right - left - BAR[True] - 16) / LETTER[True])
            bold = _cut(bold, room)
            self.labels.append(Label(left + BAR[True] + 8, y + 17, bold, _cut(rest, room - len(bold) - 1)))
        else:
            room = int((right - left - 4) / LETTER[False])
            self.labels.append(Label(left, y - 18, _cut(bold, room), _cut(rest, room)))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…" if room > 2 else ""


def flow_of(plan: Plan, kinds: Sequence[Kind], width: float) -> Flow:
    flow = Flow(width)
    y = 22.0 if flow.wide else 34.0
    middles: dict[str, tuple[float, float]] = {}
    for service in plan.services:
        mine = [k for k in kinds if k.service == service.name]
        if not service.pools:
            continue
        height = ROW[flow.wide] * max(len(service.pools), len(mine))
        _draw_service(flow, service, mine, y, height)
        middles[service.name] = (y, y + height)
        y += height + GAP[flow.wide]
    flow.height = max(y - GAP[flow.wide] + 14, 60)
    if middles:
        _draw_router(flow, plan, middles)
        _draw_fallbacks(flow, plan, middles)
    return flow


def _draw_router(flow: Flow, plan: Plan, middles: dict[str, tuple[float, float]]) -> None:
    x0, x1, *_ = flow.columns
    bar = BAR[flow.wide]
    bands = [middles[s.name] for s in plan.services if s.name in middles]
    top, bottom = bands[0][0], bands[-1][1]
    place = f"router on {', '.join(plan.router.nodes)}"
    title = f"{place}, port {plan.router.port}"
    flow.boxes.append(Box(x0, top, bar, bottom - top, "", title))
    if flow.wide:
        flow.labels.append(Label(x0, top - 9, _cut(place, 24), ""))
    for service in plan.services:
        if service.name in middles:
            y0, y1 = middles[service.name]
            flow.ribbons.append(_ribbon(service, (x0 + bar, y0, y1), (x1, y0, y1), _asked(service)))


def _asked(service: ServicePlan) -> str:
    if not service.demand_rps:
        return f"{service.name}: no traffic of its own"
    return f"{service.name}: {rate_text(service.demand_rps)} requests/s at the peak"


def _draw_service(flow: Flow, service: ServicePlan, kinds: Sequence[Kind], y: float, height: float) -> None:
    _, x1, x2, x3 = flow.columns
    bar = BAR[flow.wide]
    flow.boxes.append(Box(x1, y, bar, height, service.name, _asked(service)))
    asked = f"{rate_text(service.demand_rps)} req/s" if service.demand_rps else "fallback"
    flow.label(1, y, service.name, asked)
    pools = _pools_at(flow, service, y, height)
    into = _kinds_at(flow, service, kinds, y, height)
    start = y
    for pool, (top, size) in pools.items():
        part = height * pool.share
        flow.ribbons.append(_ribbon(service, (x1 + bar, start, start + part), (x2, top, top + size), _says(pool)))
        start += part
        at = top
        for kind, share in _parts(pool, kinds):
            wide = size * share
            begin, unit = into[kind.number]
            arrive = unit * pool.share * share
            title = f"{_says(pool)} → {kind.label} on {kind.group.nodes}"
            flow.ribbons.append(_ribbon(service, (x2 + bar, at, at + wide), (x3, begin, begin + arrive), title))
            into[kind.number] = (begin + arrive, unit)
            at += wide


def _says(pool: Pool) -> str:
    over = f", prompts over {pool.over_tokens} tokens" if pool.over_tokens else ""
    return f"pool {pool.name}: {percent(pool.share)} of the requests{over}"


def _pools_at(flow: Flow, service: ServicePlan, y: float, height: float) -> dict[Pool, tuple[float, float]]:
    """Top and height of each pool's bar."""
    found = {}
    places = _stacked(flow, [pool.share for pool in service.pools], y, height)
    for pool, (top, size) in zip(service.pools, places, strict=True):
        found[pool] = (top, size)
        flow.boxes.append(Box(flow.columns[2], top, BAR[flow.wide], size, service.name, _says(pool)))
        over = f" over {_thousands(pool.over_tokens)}" if pool.over_tokens else ""
        flow.label(2, top, pool.name, percent(pool.share) + over)
    return found


def _stacked(flow: Flow, shares: Sequence[float], y: float, height: float) -> list[tuple[float, float]]:
    """Tops and heights of bars within a band, in proportion, each with room for its label."""
    least, gap = LABEL[flow.wide], 6.0 if flow.wide else 30.0
    room = height - gap * (len(shares) - 1)
    small = [share * room < least for share in shares]
    large = sum(s for s, is_small in zip(shares, small, strict=True) if not is_small)
    unit = (room - least * sum(small)) / (large or 1)
    found, top = [], y
    for share, is_small in zip(shares, small, strict=True):
        size = max(THIN, share * unit)
        found.append((top, size))
        top += (least if is_small else size) + gap
    return found


def _thousands(tokens: int) -> str:
    return f"{tokens / 1000:.3g}k" if tokens >= 1000 else str(tokens)


def _kinds_at(
    flow: Flow, service: ServicePlan, kinds: Sequence[Kind], y: float, height: float
) -> dict[int, tuple[float, float]]:
    """Top of each kind's bar, and its height for a request of all."""
    shares = [
        sum(pool.share * part for pool in service.pools for k, part in _parts(pool, kinds) if k is kind)
        for kind in kinds
    ]
    found = {}
    for kind, share, (top, size) in zip(kinds, shares, _stacked(flow, shares, y, height), strict=True):
        found[kind.number] = (top, size / share if share else 0.0)
        room = sum(i.capacity_rps for i in kind.instances)
        title = f"{kind.label} on {kind.group.nodes}: room for {rate_text(room)} requests/s"
        flow.boxes.append(Box(flow.columns[3], top, BAR[flow.wide], size, service.name, title))
        flow.label(3, top, kind.label, kind.group.nodes)
    return found


def _parts(pool: Pool, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, float]]:
    """Kinds that a pool's requests go to, with their part of it."""
    members = set(pool.instances)
    weights = [(kind, sum(i.weight for i in kind.instances if i.id in members)) for kind in kinds]
    total = sum(weight for _, weight in weights) or 1
    yield from ((kind, weight / total) for kind, weight in weights if weight)


def _ribbon(
    service: ServicePlan, a: tuple[float, float, float], b: tuple[float, float, float], title: str
) -> Ribbon:
    """From the right side of one bar to the left side of another; each end is x, top, bottom."""
    (ax, a0, a1), (bx, b0, b1) = a, b
    m = (ax + bx) / 2
    a1, b1 = max(a1, a0 + THIN), max(b1, b0 + THIN)
    path = (
        f"M{ax:.1f},{a0:.1f}C{m:.1f},{a0:.1f} {m:.1f},{b0:.1f} {bx:.1f},{b0:.1f}"
        f"V{b1:.1f}C{m:.1f},{b1:.1f} {m:.1f},{a1:.1f} {ax:.1f},{a1:.1f}Z"
    )
    return Ribbon(path, service.name, title, not service.demand_rps)


def _draw_fallbacks(flow: Flow, plan: Plan, middles: dict[str, tuple[float, float]]) -> None:
    """From a service's bar round the left to the one that takes what it cannot."""
    x = flow.columns[1]
    for service in plan.services:
        if service.fallback in middles and service.name in middles:
            start, end = middles[service.name][1] - 8, middles[service.fallback][0] + 8
            bend = x - (46 if flow.wide else 18)
            path = f"M{x:.1f},{start:.1f}C{bend:.1f},{start + 20:.1f} {bend:.1f},{end - 20:.1f} {x - 2:.1f},{end:.1f}"
            title = f"when {service.name} is full, low priority goes to {service.fallback}"
            flow.fallbacks.append(Ribbon(path, service.name, title, False))
