"""llmfleet plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmfleet.cli.calibration import catalog_for
from llmfleet.cli.options import DEFAULT_INVENTORY, Json, Quiet
from llmfleet.cli.output import console, echo_json, write_file
from llmfleet.cli.render.plan import render_plan
from llmfleet.cli.verify import render_verified, verified_json
from llmfleet.cli.what_if_words import WHAT_IF, TermsAfterWhatIf
from llmfleet.cli.workspace import plan_path, read_inventory
from llmfleet.launch.models.services import service_models
from llmfleet.launch.record.state import write_atomically
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.errors import InputError, InventoryError
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.make import decided, written_down
from llmfleet.planner.plan import Plan, to_json, to_text

Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write the plan here, not to .llmfleet/plan.json.")
]
NoWrite = Annotated[bool, typer.Option("--no-write", help="Only show the plan.")]
Why = Annotated[bool, typer.Option("--why", help="Every rejection and leftover, not only the most telling ones.")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        WHAT_IF,
        metavar="TERM…",
        help="Show what would differ, and write nothing: +2 h20, -node NAME, SERVICE.KEY=VALUE, …",
    ),
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write a page that shows the plan in pictures.")
]
Accuracy = Annotated[bool, typer.Option("--accuracy", help="Only show how far past estimates were off.")]
Verify = Annotated[bool, typer.Option("--verify", help="Also simulate the traffic: is the formula right?")]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("plan", cls=TermsAfterWhatIf)
def plan(
    inventory: Annotated[Path, typer.Argument(metavar="INVENTORY", help="The fleet's inventory.")] = DEFAULT_INVENTORY,
    out: Out = None,
    no_write: NoWrite = False,
    why: Why = False,
    what_if: WhatIf = None,
    html: Html = None,
    verify: Verify = False,
    accuracy: Accuracy = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decide what runs where, and say why.

    Touches no node. Speeds in a calibration.yaml beside the inventory win over estimates. Writes .llmfleet/plan.json
    there, which up, status, drain and down work from. A plan short of the demand is still one, with warnings.

    \b
    Terms of --what-if, any number of them, applied from left to right:
      "+2 h20"              two more nodes like those; "+2 8 x H100-80G": of another kind; "-2 h20": two fewer
      "-node a800-1"        a node is gone; "-gpu a800-0:3": a GPU is faulty; "-service embed": nobody asks for it
      "chat.rate=2x"        any key of a service: "chat.ttft=1s", "chat.input=8k", "chat.model=Qwen/Qwen3-32B"
      "policy.redundancy=1" any key of the policy

    \b
    Examples:
      llmfleet plan                                     ./inventory.yaml
      llmfleet plan inventory.example.yaml --no-write   only look
      llmfleet plan --verify                            and simulate its traffic
      llmfleet plan --why                               all that was rejected, and for what reason
      llmfleet plan --what-if "+2 h20" "chat.rate=2x"   what would differ; writes nothing
      llmfleet plan --html plan.html                    a page to show: every GPU, the traffic, the curves
      llmfleet plan --json | jq '.services[] | {name, capacity_rps, slo_met}'
    """
    if accuracy:
        from llmfleet.cli.accuracy import show_accuracy

        show_accuracy(inventory, as_json=as_json)
        return
    if out is not None and no_write:
        raise InputError("--out writes and --no-write does not", hint="Use one of them.")
    if what_if:
        _refuse_beside_what_if(out=out, html=html, verify=verify)
    fleet = read_inventory(inventory)
    decision = decision_of(fleet, inventory)
    made = written_down(decision)
    if what_if:
        _answer(what_if, made, fleet, inventory, as_json=as_json)
        return
    target = None if no_write else out or plan_path(inventory)
    if target is not None:
        write_plan(made, target)
    if html is not None:
        _write_page(html, made, decision)
    if as_json:
        echo_json(to_json(made) | (verified_json(inventory, made) if verify else {}))
    elif not quiet:
        _show(made, fleet, inventory, target, why=why, verify=verify)
    if not quiet and html is not None:
        typer.echo(f"its page is {html}", err=True)


def _refuse_beside_what_if(*, out: Path | None, html: Path | None, verify: bool) -> None:
    if verify:
        raise InputError(f"--verify simulates the plan of the inventory, not of {WHAT_IF}", hint="Use one of them.")
    if out or html:
        raise InputError(f"{'--out' if out else '--html'} writes and {WHAT_IF} does not", hint="Use one of them.")


def _show(made: Plan, fleet: Inventory, path: Path, target: Path | None, *, why: bool, verify: bool) -> None:
    render_plan(made, fleet, console(), why=why)
    if verify:
        render_verified(path, made, console())
    if target is not None:
        typer.echo(f"plan {made.hash[:6]} is in {target}", err=True)


def decision_of(fleet: Inventory, path: Path) -> Decision:
    """`path`: the inventory's; files that it names are found from its folder."""
    models = service_models(fleet, path)
    return decided(fleet, models, catalog_for(path, models.values()))


def plan_of(fleet: Inventory, path: Path) -> Plan:
    return written_down(decision_of(fleet, path))


def _answer(terms: Sequence[str], now: Plan, fleet: Inventory, path: Path, *, as_json: bool) -> None:
    from llmfleet.cli.render.plan_difference import render_question  # as above: only where it is asked for
    from llmfleet.planner.difference import difference
    from llmfleet.planner.difference import to_json as difference_json

    then = _plan_then(terms, fleet, path)
    found = difference(now, then)
    if as_json:
        echo_json({"what_if": list(terms), "difference": difference_json(found), "plan": to_json(then)})
    else:
        render_question(terms, now, then, found, console())


def _plan_then(terms: Sequence[str], fleet: Inventory, path: Path) -> Plan:
    from llmfleet.planner.what_if import ask

    asked = ask(terms, fleet)
    try:
        return plan_of(asked, path)
    except InventoryError as error:  # its lines are those of the file, which is not what is wrong
        said = " ".join(f"{p.message} {p.hint}".rstrip() for p in error.problems)
        raise InputError(f"what if {' · '.join(terms)}: {said}") from None


def write_plan(made: Plan, path: Path) -> None:
    try:
        write_atomically(path, to_text(made))
    except OSError as error:
        raise InputError(
            f"the plan cannot be written to {path}: {error.strerror}", hint="Name another file: --out FILE"
        ) from None


def _write_page(path: Path, made: Plan, decision: Decision) -> None:
    from llmfleet.cli.render.html import plan_page  # templates and curves: only where a page is asked for
    from llmfleet.planner.curves import curves

    write_file(path, plan_page(made, decision.inventory, curves(decision, made)), "--html FILE")
