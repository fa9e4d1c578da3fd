"""The command line: what `llmfleet` alone knows. A command's module is imported when it is called or asked for help."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from llmfleet import __version__
from llmfleet.cli.errors import report_crash, report_error, report_usage
from llmfleet.cli.start import INTERRUPTED
from llmfleet.planner.errors import FleetError, InputError

BROKEN_PIPE = 141  # what a shell reports for a command whose reader went away


class Command(NamedTuple):
    """`entry` is a function, or a Typer app where the command has commands of its own."""

    name: str
    entry: str
    help: str


COMMANDS = (
    Command("init", "init:init", "Write inventory.yaml from the machines themselves."),
    Command("estimate", "estimate:estimate", "Memory budget and speed of one model on one GPU shape."),
    Command("plan", "plan:app", "Decide what runs where, and say why."),
    Command("simulate", "simulate:simulate", "Run the plan's traffic through simulated engines and router."),
    Command("rehearse", "rehearse:rehearse", "Run the plan on this machine, on simulated engines."),
    Command("bench", "bench:bench", "Measure what instances and router really do."),
    Command("doctor", "doctor:doctor", "Check every node before anything changes."),
    Command("trust", "trust:trust", "Show host keys and store them in known_hosts."),
    Command("up", "up:up", "Make the fleet match the plan."),
    Command("upgrade", "upgrade:upgrade", "Roll another engine version out, as up rolls any change of plan."),
    Command("status", "status:status", "Nodes, instances, router and live figures."),
    Command("watch", "watch:watch", "See a node die, and plan its services anew on what is left."),
    Command("logs", "logs:logs", "Show or follow an instance's log."),
    Command("drain", "drain:drain", "Take a node out of rotation without losing a request."),
    Command("undrain", "drain:undrain", "Put a drained node back to work."),
    Command("state", "state:app", "What up has done so far: shown, or read anew from the nodes."),
    Command("audit", "audit:audit", "Who changed what, when, and what came of it."),
    Command("router", "router:app", "Show, compare or reload the router's configuration; restart it."),
    Command("export", "export:app", "Write the plan for Kubernetes or for Ray Serve."),
    Command("down", "down:down", "Stop what up started, and nothing else."),
)


class LazyGroup(TyperGroup):
    """Lists commands from the table above; only the one that is called is imported."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in COMMANDS:
            self.add_command(TyperCommand(command.name, help=command.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and load(name or ""), rest


def load(name: str) -> Any:
    """The command of that name, ready to run."""
    entry = next(c.entry for c in COMMANDS if c.name == name)
    module, attribute = entry.split(":")
    target = getattr(import_module(f"llmfleet.cli.{module}"), attribute)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name)(target)
        target = single
    command = typer.main.get_command(target)
    command.name = name
    _want_numbers(command)
    return command


def _want_numbers(command: Any) -> None:
    """Has an option that takes a number refuse nan and inf, which every comparison with a bound lets pass."""
    for each in getattr(command, "commands", {}).values():
        _want_numbers(each)
    call, options = command.callback, {p.name: max(p.opts, key=len) for p in command.params}

    def checked(**given: Any) -> Any:
        for name, value in given.items():
            if isinstance(value, float) and not isfinite(value):
                raise InputError(f"{options.get(name, name)} {value}: a number is needed")
        return call(**given)

    command.callback = call and checked


app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, no_args_is_help=True)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmfleet {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """From a list of unequal GPU machines to a running LLM service, over SSH.

    Write inventory.yaml, then: llmfleet plan, llmfleet up, llmfleet status.

    \b
    Exit codes:
      0  fine
      1  the fleet is not as it should be
      2  bad input
      3  a node could not be reached
      4  locked by another run
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Only --debug lets a traceback out."""
    gc.set_threshold(50_000)  # little in a short run is garbage, and looking for it costs a tenth of the time
    args = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = "--debug" in args, "--json" in args
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our characters shows "?", not a traceback
    try:
        code = run([a for a in args if a != "--debug"])
        sys.stdout.flush()
        return code
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        typer.echo("Nothing was changed.", err=True)
        return 1
    except typer.TyperException as error:
        return report_usage(error, as_json=as_json)
    except FleetError as error:
        if debug:
            traceback.print_exc()
        return report_error(error, as_json=as_json)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        if getattr(error, "errno", None) == errno.ENOSPC:
            _drop_output()
            full = FleetError("no space is left on the device", hint="Free some where output and .llmfleet/ go.")
            return report_error(full, as_json=False)
        return report_crash(error, as_json=as_json)
    finally:
        gc.freeze()  # the interpreter would look through all of it once more before it ends, for nothing


def _open_closed() -> None:
    """Streams that the caller closed lead nowhere; else the next file that is opened would take their place."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def _drop_output() -> None:
    """What could not be written is not tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(args: list[str]) -> int:
    command = typer.main.get_command(app)
    if "_LLMFLEET_COMPLETE" in os.environ:  # the shell asks for completions: Typer answers and exits
        command.main(args, prog_name="llmfleet")
    with command.make_context("llmfleet", args) as context:
        return command.invoke(context) or 0


if __name__ == "__main__":
    sys.exit(main())
