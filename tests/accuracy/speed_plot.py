"""Predicted against measured on logarithmic axes, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

SIZE, MARGIN = 480, 56
COLOURS = {"dense": "#1f6feb", "MoE": "#d29922"}


def scatter(dots: Sequence[tuple[float, float, str, str]], unit: str) -> str:
    """`dots`: measured, predicted, name and kind. Dashed: where both are equal; dotted: 25 % off."""
    values = [v for measured, predicted, *_ in dots for v in (measured, predicted)]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))

    def x(value: float) -> float:
        return MARGIN + (log10(value) - low) / (high - low) * (SIZE - 2 * MARGIN)

    def y(value: float) -> float:
        return SIZE - x(value)

    def line(factor: float, dash: str) -> str:
        a, b = 10.0**low, 10.0**high
        first, last = max(a, a / factor), min(b, b / factor)
        ends = f'x1="{x(first):.1f}" y1="{y(first * factor):.1f}" x2="{x(last):.1f}" y2="{y(last * factor):.1f}"'
        return f'<line {ends} stroke="#8c959f" stroke-dasharray="{dash}"/>'

    marks = "\n".join(
        f'<circle cx="{x(m):.1f}" cy="{y(p):.1f}" r="3" fill="{COLOURS[kind]}" fill-opacity="0.5">'
        f"<title>{name}: measured {m:.4g}, predicted {p:.4g}</title></circle>"
        for m, p, name, kind in dots
    )
    ticks = "\n".join(
        f'<text x="{x(t):.0f}" y="{SIZE - MARGIN + 18}" text-anchor="middle">{t:g}</text>'
        f'<text x="{MARGIN - 8}" y="{y(t) + 4:.0f}" text-anchor="end">{t:g}</text>'
        for t in (10.0**power for power in range(low, high + 1))
    )
    legend = "".join(
        f'<circle cx="{MARGIN + 16}" cy="{MARGIN + 12 + 20 * i}" r="4" fill="{colour}"/>'
        f'<text x="{MARGIN + 28}" y="{MARGIN + 16 + 20 * i}">{kind}</text>'
        for i, (kind, colour) in enumerate(COLOURS.items())
    )
    head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}"'
    return f"""<svg {head} font-family="sans-serif" font-size="12" fill="#57606a">
<rect width="{SIZE}" height="{SIZE}" fill="#ffffff"/>
{line(1.0, "4 3")}{line(1.25, "1 3")}{line(0.8, "1 3")}
<path d="M{MARGIN} {MARGIN}V{SIZE - MARGIN}H{SIZE - MARGIN}" fill="none" stroke="#57606a"/>
{ticks}
{legend}
{marks}
<text x="{SIZE / 2}" y="{SIZE - 8}" text-anchor="middle">measured, {unit}</text>
<text transform="translate(14 {SIZE / 2}) rotate(-90)" text-anchor="middle">predicted, {unit}</text>
</svg>
"""
