"""Commands as root, through sudo on the node: `access: {sudo: true}`. A password goes by stdin, and nowhere else."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from llmfleet.launch.transport.base import Argv
from llmfleet.planner.errors import InputError, SudoError
from llmfleet.planner.inventory.model import Access

# sudo takes a line of stdin only where it wants a password. So the password is followed by a word of ours, and what
# sudo left of both is passed over: neither reaches the command. A shell reads a pipe byte by byte, and no further.
SKIP = 'while IFS= read -r line && [ "$line" != {word} ]; do :; done; '


@dataclass(frozen=True, slots=True)
class Sudo:
    """`variable`: of our environment, with the password; None where sudo wants none. No object keeps its value."""

    node: str
    variable: str | None = None

    def wrapped(self, script: str, argv: Argv, word: str) -> str:
        """The command for the login shell. `script` is what is said once sudo has let us through, before the command.
        sudo starts with an empty environment; the address that our connection reached is all that is missed of it."""
        asking = "-n" if self.variable is None else "-S -p ''"
        over = "" if self.variable is None else SKIP.format(word=word)
        words = shlex.join(("sh", "-c", f'{over}{script}; exec "$@"', "sh", *argv))
        return f'exec sudo -H {asking} -- env SSH_CONNECTION="$SSH_CONNECTION" {words}'

    def preface(self, word: str) -> bytes:
        """Comes before the command's own stdin."""
        return b"" if self.variable is None else f"{self._password(self.variable)}\n{word}\n".encode()

    def refused(self, said: str) -> SudoError:
        return SudoError(
            f"sudo does not let us through{f': {said}' if said else ''}",
            hint="Does `sudo true` work there? Where it wants a password, `access: {sudo_password_env: NAME}` says "
            "which variable of your environment holds it.",
            node=self.node,
        )

    def _password(self, variable: str) -> str:
        password = os.environ.get(variable, "")
        if not password or "\n" in password:
            what = f"the environment variable {variable}, which should hold sudo's password, is not set to one line"
            raise SudoError(what, hint=f"read -rs {variable} && export {variable}", node=self.node)
        return password


def sudo_of(node: str, access: Access) -> Sudo | None:
    """None where commands run as who logs in. Raises InputError where the inventory contradicts itself."""
    if access.sudo_password_env and not access.sudo:
        raise InputError("`sudo_password_env` is set and `sudo` is not", hint="Set `sudo: true` too.", node=node)
    if access.sudo and access.transport == "local":
        raise InputError("`sudo` is for nodes reached by SSH", hint="Run llmfleet as root instead.", node=node)
    return Sudo(node, access.sudo_password_env) if access.sudo else None
