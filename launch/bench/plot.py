"""Latency against load as one SVG, which is also what the HTML page shows: no library, opens everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llmfleet.launch.bench.figures import Figures, Limits

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 640, 260, 64, 42, 34, 26
SERIES = (("p50", "#1f77b4"), ("p95", "#d62728"))


def latency_svg(title: str, points: Sequence[Figures], limits: Limits) -> str:
    """TTFT above TPOT, each against the rate or the users, with its limit as a dashed line."""
    panels = [
        ("TTFT, ms", [f.ttft_ms for f in points], limits.ttft_s),
        ("TPOT, ms", [f.tpot_ms for f in points], limits.tpot_s),
    ]
    loads = [f.rate_rps if f.rate_rps is not None else float(f.users or 0) for f in points]
    axis = "requests a second" if points and points[0].rate_rps is not None else "users at once"
    shown = [panel for panel in panels if any(panel[1])]
    body = [
        _panel(i * (HEIGHT + GAP), name, loads, values, limit, axis) for i, (name, values, limit) in enumerate(shown)
    ]
    height = max(1, len(shown)) * (HEIGHT + GAP) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="bold">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


def page(title: str, svgs: Sequence[str]) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<body>{''.join(svgs)}</body></html>\n"
    )


def _panel(
    y: int, name: str, loads: Sequence[float], values: Sequence[dict[str, float]], limit_s: float | None, axis: str
) -> str:
    top = max([v.get("p95", 0.0) for v in values] + [limit_s * 1000 if limit_s else 0.0]) * 1.1 or 1.0
    most = max(loads, default=1.0) * 1.05 or 1.0

    def place(load: float, value: float) -> str:
        across = LEFT + load / most * (WIDTH - LEFT - 20)
        return f"{across:.1f},{y + HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP):.1f}"

    floor = y + HEIGHT - BOTTOM
    parts = [
        f'<path d="M{LEFT},{y + TOP} V{floor} H{WIDTH - 20}" fill="none" stroke="#444"/>',
        f'<text x="{LEFT}" y="{y + TOP - 6}">{escape(name)}</text>',
        f'<text x="{(WIDTH + LEFT) / 2}" y="{floor + 34}" text-anchor="middle">{axis}</text>',
    ]
    for part in (0.0, 0.5, 1.0):
        x, value = place(most * part, 0).split(",")[0], place(0, top * part).split(",")[1]
        parts.append(f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{most * part:.3g}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{value}" text-anchor="end">{top * part:.3g}</text>')
    if limit_s:
        start, end = place(0, limit_s * 1000), place(most, limit_s * 1000)
        parts.append(f'<path d="M{start} L{end}" stroke="#888" stroke-dasharray="5 4"/>')
    for row, (percentile, colour) in enumerate(SERIES):
        dots = [place(load, v[percentile]) for load, v in zip(loads, values, strict=True) if percentile in v]
        parts.append(f'<polyline points="{" ".join(dots)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{d.split(",")[0]}" cy="{d.split(",")[1]}" r="3" fill="{colour}"/>' for d in dots]
        parts.append(f'<text x="{WIDTH - 60}" y="{y + TOP + 14 * row}" fill="{colour}">{percentile}</text>')
    return "".join(parts)
