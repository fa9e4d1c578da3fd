"""Reading `--what-if TERM TERM …`: an option with as many values as there are words behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

WHAT_IF = "--what-if"


class TermsAfterWhatIf(TyperCommand):
    """Every word behind --what-if is a term, up to the next option of the command or the name of an inventory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
        rest: list[str] = super().parse_args(ctx, [*one_option_a_term(args, options)])
        return rest


def one_option_a_term(args: Sequence[str], options: set[str]) -> Iterator[str]:
    """The words with --what-if before each term. A term may look like an option: `-node a800-1`."""
    in_terms = value_follows = False
    for arg in args:
        option = arg.partition("=")[0]
        if value_follows:
            value_follows = False
        elif option == WHAT_IF:
            in_terms, value_follows = True, arg == WHAT_IF
        elif option in options or option == "--" or arg.endswith((".yaml", ".yml")):
            in_terms = False
        elif in_terms:
            yield WHAT_IF
        yield arg
