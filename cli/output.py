"""Results on stdout: one JSON document, or text for people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmfleet.planner.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_ELSEWHERE = 160  # columns in files and pipes
LEAST_WIDTH = 80  # narrower tables would cut figures: a terminal that is narrower breaks their lines instead


def echo_json(value: Any) -> None:
    """A result value (any dataclass of ours) or a ready-made object, as one document."""
    from pydantic import TypeAdapter

    body = value if isinstance(value, dict) else TypeAdapter(type(value)).dump_python(value, mode="json")
    typer.echo(json.dumps(body, indent=2, ensure_ascii=False))


def console(least: int = LEAST_WIDTH) -> Console:
    """For stdout: colours and the terminal's own width on a terminal; elsewhere plain and wide."""
    from llmfleet.cli.console import SafeConsole  # Rich is slow to load: only what draws tables waits for it

    if not sys.stdout.isatty():
        return SafeConsole(highlight=False, width=WIDTH_ELSEWHERE)
    screen = SafeConsole(highlight=False)
    return screen if screen.width >= least else SafeConsole(highlight=False, width=least)


def write_file(path: Path, text: str, option: str) -> None:
    """A file that a person asked for, with the usual permissions. `option`: what named it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}", hint=f"Name another place: {option}"
        ) from None


def counted(number: int, thing: str) -> str:
    """1 step, 2 steps, 12 000 steps."""
    return f"{grouped(number)} {thing}{'s' * (number != 1)}"


def grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def percent(share: float) -> str:
    """Of 0..1, without decimals: 72 %."""
    return f"{share * 100:.0f} %"


def may_ask() -> bool:
    """Whether there is a person to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()
