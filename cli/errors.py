"""How errors reach people: what went wrong and what to do next on stderr, or one JSON document on stdout."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer

from llmfleet.cli.printable import colours, printable
from llmfleet.planner.errors import FleetError, InventoryError, NodesError

CRASHED = 1


def report_error(error: FleetError, *, as_json: bool) -> int:
    """Says it and returns the exit code."""
    where = f"{error.node}: " if error.node else ""
    if as_json:
        _echo_json(where + error.message, error.hint, error.exit_code, _problems(error))
    if isinstance(error, InventoryError):
        count = len(error.problems)
        _echo(f"{count} problem{'s' * (count != 1)} in {error.problems[0].file}" if count else "", error.hint)
        typer.echo(printable(error.message), err=True)
    else:
        _echo(where + error.message, error.hint)
    return error.exit_code


def report_usage(error: typer.TyperException, *, as_json: bool) -> int:
    message, context = error.format_message(), getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context else ""
    if context and message == context.get_help():  # no command: its help is the message
        typer.echo(message, err=True)
        return error.exit_code
    if as_json:
        _echo_json(message, hint, error.exit_code, [])
    _echo(message, hint)
    return error.exit_code


def report_crash(error: Exception, *, as_json: bool) -> int:
    message = f"internal error: {type(error).__name__}: {error}"
    hint = "This is a mistake in llmfleet. Run the command again with --debug and report what it prints."
    if as_json:
        _echo_json(message, hint, CRASHED, [])
    _echo(message, hint)
    return CRASHED


def _problems(error: FleetError) -> list[dict[str, Any]]:
    if isinstance(error, InventoryError):
        return [asdict(p) for p in error.problems]
    if isinstance(error, NodesError):
        return [
            {"node": e.node, "message": e.message, "hint": e.hint, "exit_code": e.exit_code, "problems": _problems(e)}
            for e in error.errors
        ]
    return []


def _echo(message: str, hint: str) -> None:
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False, color=colours())
    typer.echo(printable(message), err=True)
    if hint:
        typer.echo(printable(f"  → {hint}"), err=True)


def _echo_json(message: str, hint: str, exit_code: int, problems: list[dict[str, Any]]) -> None:
    body = {"message": message, "hint": hint, "exit_code": exit_code, "problems": problems}
    typer.echo(json.dumps({"error": body}, ensure_ascii=False))
