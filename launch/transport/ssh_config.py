"""The user's ssh_config: host names, users, ports, keys and jump hosts come from it where the inventory is silent.

`Include` is followed here, since paramiko's parser keeps it as a mere word. Of what remains, llmfleet uses HostName,
User, Port, IdentityFile, IdentitiesOnly and ProxyJump. Host keys come from the inventory's `known_hosts`, whatever
UserKnownHostsFile says; a ProxyCommand is refused, since ignoring it would reach another machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from paramiko.config import SSHConfig, SSHConfigDict
from paramiko.ssh_exception import SSHException

from llmfleet.planner.errors import InputError

SYSTEM = Path("/etc/ssh")
DEPTH = 16  # as OpenSSH; ends a file that includes itself


def look_up(host: str) -> SSHConfigDict:
    """The options that apply to `host`. InputError when the files make no sense."""
    config = ssh_config()
    try:
        found = config.lookup(host)
        int(found.get("port", 22))
    except (SSHException, KeyError, ValueError) as error:
        raise InputError(f'ssh_config is wrong for "{host}": {error}', hint=f"ssh -G {host}") from error
    if found.get("proxycommand"):
        raise InputError(
            f'ssh_config gives "{host}" a ProxyCommand, which llmfleet does not run',
            hint="Give the node `jump: [user@]host[:port]` in the inventory, or a ProxyJump in ssh_config.",
        )
    return found


def host_name(host: str) -> str:
    """The HostName of a node, which may be its own name; never an error, also where we would not follow the rest."""
    bare = host.rpartition("@")[2]
    try:
        return str(ssh_config().lookup(bare).get("hostname", bare))
    except (SSHException, KeyError, ValueError, InputError):
        return bare


def user_name(host: str) -> str | None:
    """The User of a node, where ssh_config has one; never an error either."""
    try:
        return ssh_config().lookup(host.rpartition("@")[2]).get("user")
    except (SSHException, KeyError, ValueError, InputError):
        return None


def ssh_config() -> SSHConfig:
    """~/.ssh/config, then the system's: the first value found counts."""
    user = Path.home() / ".ssh"
    lines = [*_lines(user / "config", user), "Host *", *_lines(SYSTEM / "ssh_config", SYSTEM)]
    return _parsed("\n".join(lines))


@lru_cache(maxsize=4)
def _parsed(text: str) -> SSHConfig:
    try:
        return SSHConfig.from_text(text)
    except SSHException as error:
        raise InputError(f"ssh_config cannot be read: {error}", hint="ssh -G localhost") from error


def _lines(file: Path, base: Path, depth: int = 0) -> Iterator[str]:
    """The file's lines with those of included files in their place; relative names count from `base`."""
    block = "Host *"
    for keyword, value, line in _keywords(_text(file)) if depth < DEPTH else ():
        if keyword != "include":
            block = line if keyword in ("host", "match") else block
            yield line
            continue
        for included in _included(value, base):
            yield from _lines(included, base, depth + 1)
            yield block  # an included file ends its own Host blocks, not the one it stands in


@lru_cache(maxsize=64)
def _keywords(text: str) -> tuple[tuple[str, str, str], ...]:
    """Of each line the keyword in lower case, the rest, and the line itself."""
    parted = ((re.sub(r"[\s=]+", " ", line.strip(), count=1).partition(" "), line) for line in text.splitlines())
    return tuple((keyword.lower(), value, line) for (keyword, _, value), line in parted)


def _included(patterns: str, base: Path) -> Iterator[Path]:
    for pattern in patterns.replace('"', "").split():
        path = base / Path(pattern).expanduser()
        yield from sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", hint=f"ls -l {file}") from error
