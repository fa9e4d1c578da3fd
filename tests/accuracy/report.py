"""docs/validation.md: a section for each part of the planner that is compared with what others measured.

A part prints its tables and targets; `python -m tests.accuracy` runs all of them, writes the page and fails on a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "validation.md"
SIZE, MARGIN = 480, 48
HEAD = """# How near the estimates are

`make accuracy` compares the planner with what others measured and logged in public, and writes this page. Nothing here
was measured on a GPU of the project's own.
"""


@dataclass(frozen=True)
class Target:
    """One line of a targets' table."""

    part: str
    text: str
    value: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        mark = "ok  " if self.met else "MISS"
        sign = "≥" if self.at_least else "≤"
        return f"{mark} {self.part:<34} {self.text:<46} {self.value:9.3%}  (target {sign} {self.limit:.2%})"


@dataclass(frozen=True)
class Section:
    """`text` is Markdown below the heading of its `title`; `plots` are files beside the page and their SVG."""

    title: str
    text: str
    targets: tuple[Target, ...]
    plots: tuple[tuple[str, str], ...] = ()


def write(sections: Sequence[Section]) -> None:
    for section in sections:
        for name, svg in section.plots:
            (DOCS / name).write_text(svg, encoding="utf-8")
    PAGE.write_text(page(sections), encoding="utf-8")


def page(sections: Sequence[Section]) -> str:
    return "\n".join((HEAD, *(f"## {section.title}\n\n{section.text}" for section in sections)))


def block(lines: Sequence[object]) -> str:
    return "\n".join(("```", *map(str, lines), "```"))


@dataclass(frozen=True)
class Dot:
    measured: float
    predicted: float
    name: str
    kind: str


def scatter(dots: Sequence[Dot], colours: dict[str, str], ticks: Sequence[int], unit: str) -> str:
    """Predicted against measured, as SVG, on equal axes from 0 to the last tick."""
    most = ticks[-1]
    x: Callable[[float], float] = lambda v: MARGIN + v / most * (SIZE - 2 * MARGIN)  # noqa: E731
    y: Callable[[float], float] = lambda v: SIZE - x(v)  # noqa: E731
    marks = "\n".join(_dot(x(d.measured), y(d.predicted), colours[d.kind], d.name) for d in dots)
    labels = "\n".join(
        _text(x(t), SIZE - MARGIN + 18, str(t), "middle") + _text(MARGIN - 8, y(t) + 4, str(t), "end") for t in ticks
    )
    legend = "".join(
        _dot(MARGIN + 16, MARGIN + 12 + 20 * i, colour, kind) + _text(MARGIN + 28, MARGIN + 16 + 20 * i, kind)
        for i, (kind, colour) in enumerate(colours.items())
    )
    head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}"'
    return f"""<svg {head} font-family="sans-serif" font-size="12" fill="#57606a">
<rect width="{SIZE}" height="{SIZE}" fill="#ffffff"/>
<line x1="{x(0)}" y1="{y(0)}" x2="{x(most)}" y2="{y(most)}" stroke="#8c959f" stroke-dasharray="4 3"/>
<path d="M{x(0)} {y(most)}V{y(0)}H{x(most)}" fill="none" stroke="#57606a"/>
{labels}
{legend}
{marks}
<text x="{SIZE / 2}" y="{SIZE - 8}" text-anchor="middle">measured, {unit}</text>
<text transform="translate(14 {SIZE / 2}) rotate(-90)" text-anchor="middle">predicted, {unit}</text>
</svg>
"""


def _dot(x: float, y: float, colour: str, title: str) -> str:
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.6">'
    return f"{circle}<title>{title}</title></circle>"


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'
