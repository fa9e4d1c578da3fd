"""Which machines are meant: hosts as people write them, with ranges, and those of ssh_config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmfleet.launch.transport.ssh_config import look_up, ssh_config
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Access
from llmfleet.planner.inventory.ranges import expand
from llmfleet.planner.inventory.shapes import HOST_SHAPE

SIMPLE_ALIAS = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclass(frozen=True, slots=True)
class Machine:
    """`asked` is the host as it was named; `host` how the inventory is to name it; `access` how it is reached."""

    asked: str
    host: str
    access: Access


def machines(hosts: Iterable[str], access: Access, *, from_ssh_config: bool = False) -> tuple[Machine, ...]:
    """Each once, in the order in which they were named. InputError for what is no host, or where there is none."""
    asked = [*(host for text in hosts for host in _expanded(text)), *(aliases() if from_ssh_config else ())]
    if not asked:
        where = "ssh_config names no host without wildcards" if from_ssh_config else "no host was named"
        raise InputError(where, hint="Name hosts: llmfleet init 10.0.1.10 '10.0.2.[10-17]' gpu-1.example")
    return tuple(_machine(host, access) for host in dict.fromkeys(asked))


def aliases() -> Iterator[str]:
    """Hosts that ssh_config names one by one; code hosts, which are no machines of ours, aside."""
    for name in sorted(ssh_config().get_hostnames()):
        if SIMPLE_ALIAS.fullmatch(name) and not _is_code_host(look_up(name)["hostname"]):
            yield name


def _expanded(text: str) -> Iterator[str]:
    try:
        for host in expand(text):
            yield HOST_SHAPE.parse(host)
    except ValueError as error:
        raise InputError(f'"{text}" is no host: {error}', hint="A user is named with --user.") from None


def _machine(host: str, access: Access) -> Machine:
    """An alias of ssh_config stands in the inventory under its real name, with the login that ssh_config gives it."""
    options = look_up(host)
    real = options["hostname"]
    if real == host:
        return Machine(host, host, access)
    own = {
        "user": options.get("user"),
        "port": int(options["port"]) if "port" in options else None,
        "key": next((_from_home(file) for file in options.get("identityfile", ())), None),
        "jump": options.get("proxyjump"),
    }
    given = access.model_fields_set
    return Machine(
        host,
        real,
        access.model_copy(update={key: v for key, v in own.items() if v and v != "none" and key not in given}),
    )


def _from_home(file: str) -> str:
    """With ~ again, which ssh_config's reader has expanded: an inventory is shared with others."""
    return file.replace(f"{Path.home()}/", "~/", 1)


def _is_code_host(name: str) -> bool:
    return name.endswith(("github.com", "gitlab.com", "bitbucket.org"))
