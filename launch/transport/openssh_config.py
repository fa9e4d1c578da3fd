"""How the ssh program is started: the configuration file that we give it, and what its complaints mean.

The file's own lines come before the user's ssh_config, and ssh takes the first value it finds: so host keys are
verified whatever else is written there, on jump hosts too, for which ssh starts itself with the same file.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmfleet.launch.transport.ssh_config import SYSTEM
from llmfleet.planner.errors import AuthError, DeadlineError, FleetError, HostKeyError, InputError, TransportError
from llmfleet.planner.inventory.model import Access

KEEPALIVE_S, UNANSWERED = 15, 3
SLOTS = 8  # logins under way through one jump host; see gateway.py
ASKPASS_VARIABLE = "LLMFLEET_ASKPASS"
ASKPASS = f'#!/bin/sh\nprintf "%s\\n" "${ASKPASS_VARIABLE}"\n'


@dataclass(frozen=True, slots=True)
class ControlFolder:
    """Sockets, configuration and nothing secret; 0700, gone with this process. A short path, as sockets need."""

    path: Path
    name: str
    host: str
    access: Access

    @classmethod
    def enter(cls, node: str, host: str, access: Access) -> ControlFolder:
        """InputError where there is no ssh program, or the password that the inventory speaks of is not set."""
        if shutil.which("ssh") is None:
            raise InputError("there is no `ssh` on this machine's PATH", hint="Install OpenSSH's client.", node=node)
        if access.password_env and access.password_env not in os.environ:
            what = f"the environment variable {access.password_env}, which should hold the password, is not set"
            raise AuthError(what, hint=f"read -rs {access.password_env} && export {access.password_env}", node=node)
        path = Path(tempfile.mkdtemp(prefix="llmfleet-ssh-"))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
        (path / "config").write_text(config(access), encoding="utf-8")
        if access.password_env:
            (path / "askpass").write_text(ASKPASS, encoding="utf-8")
            (path / "askpass").chmod(0o700)
        return cls(path, node, host, access)

    def leave(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def socket(self) -> Path:
        return self.path / hashlib.sha256(self.name.encode()).hexdigest()[:8]

    def master(self) -> list[str]:
        """Lives until told to go. ControlPersist would hide what a jump host's ssh says."""
        return [*self._ssh(), "-M", "-N", "-f", "-o", "ControlPersist=no", *self._place()]

    def session(self) -> list[str]:
        return [*self._ssh(), "-o", "ControlMaster=no", *self._place()]

    def control(self, word: str) -> list[str]:
        return [*self._ssh(), "-O", word, *self._place()]

    def env(self) -> Mapping[str, str] | None:
        """The password goes to ssh by its own door for that, and only while it logs in."""
        if not self.access.password_env:
            return None
        asking = {"SSH_ASKPASS": str(self.path / "askpass"), "SSH_ASKPASS_REQUIRE": "force"}
        return MappingProxyType({**os.environ, **asking, ASKPASS_VARIABLE: os.environ[self.access.password_env]})

    def _ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.path / "config"), "-T", "-S", str(self.socket)]

    def _place(self) -> list[str]:
        access = self.access
        user = ["-l", access.user] if access.user else []
        port = ["-p", str(access.port)] if access.port else []
        key = ["-i", str(Path(access.key).expanduser()), "-o", "IdentitiesOnly=yes"] if access.key else []
        jump = ["-J", access.jump] if access.jump else []
        return [*user, *port, *key, *jump, "--", self.host]


def config(access: Access) -> str:
    """Ours first. UserKnownHostsFile only where the inventory names another than usual: else ssh_config's counts."""
    named = access.known_hosts != Access().known_hosts
    known = [f"  UserKnownHostsFile {_quoted(str(Path(access.known_hosts).expanduser()))}"] if named else []
    asks = (
        ["  NumberOfPasswordPrompts 1", "  PreferredAuthentications publickey,keyboard-interactive,password"]
        if access.password_env
        else ["  BatchMode yes"]
    )
    lines = [
        "Host *",
        "  StrictHostKeyChecking yes",
        "  UpdateHostKeys no",
        *known,
        *asks,
        f"  ConnectTimeout {max(1, round(access.connect_timeout))}",
        f"  ServerAliveInterval {KEEPALIVE_S}",
        f"  ServerAliveCountMax {UNANSWERED}",
        "  RequestTTY no",
        "  RemoteCommand none",
        "  ForwardAgent no",
        "  ForwardX11 no",
        "  ClearAllForwardings no",  # the way through a jump host is a forwarding
        "  PermitLocalCommand no",
        "  LogLevel ERROR",
        f"Include {_quoted(str(Path.home() / '.ssh' / 'config'))}",
        "Host *",
        f"Include {_quoted(str(SYSTEM / 'ssh_config'))}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(path: str) -> str:
    if '"' in path or "\n" in path:
        raise InputError(f"ssh_config cannot name the file {path}", hint="Move it to a path without quotes.")
    return f'"{path}"'


def jump_slot(jump: str) -> threading.BoundedSemaphore:
    """Bounds the logins through one jump host at a time."""
    with _mutex:
        return _slots.setdefault(jump, threading.BoundedSemaphore(SLOTS))


_mutex = threading.Lock()
_slots: dict[str, threading.BoundedSemaphore] = {}
HEALING = re.compile(
    r"kex_exchange_identification|Connection (closed|reset)|banner exchange|Temporary failure in name resolution"
)
LOGIN_HINT = (
    "Add the public key to ~/.ssh/authorized_keys there (ssh-copy-id), or name another user or key under `access:`."
)


def may_heal(error: TransportError) -> bool:
    return type(error) is TransportError and HEALING.search(error.message) is not None


def failure(said: str, node: str, host: str, access: Access) -> FleetError:
    """What ssh's words on stderr mean. They go into the message, since it knows best."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(("@", "*"))]
    last = lines[-1] if lines else "ssh does not say why"
    if "Host key verification failed" in said or "HOST IDENTIFICATION HAS CHANGED" in said or "REVOKED" in said:
        return _host_key(said, node, access)
    if "Permission denied" in said or "Too many authentication failures" in said:
        user = f' "{access.user}"' if access.user else ""
        return AuthError(f"it refused user{user}: {last}", hint=LOGIN_HINT, node=node)
    if "timed out" in said:
        hint = "Is the machine on, and does a firewall let you through?"
        return DeadlineError(last, hint=hint, node=node, heals=True)
    if "refused" in said:
        return TransportError(last, hint="Does sshd run there, on that port?", node=node, heals=True)
    if "Could not resolve" in said:
        return TransportError(last, hint="Check `host:` in the inventory, ssh_config, or DNS.", node=node)
    heals = HEALING.search(last) is not None
    return TransportError(f"{host}: {last}", hint=f"ssh -v {host} says more.", node=node, heals=heals)


def _host_key(said: str, node: str, access: Access) -> HostKeyError:
    place = re.search(r"^Offending .* in (\S+:[0-9]+)", said, re.MULTILINE)
    where = place[1] if place else access.known_hosts
    if "REVOKED" in said:
        what = f"it offers a host key that {where} revokes"
        return HostKeyError(what, hint="Do not connect. Whoever maintains that file withdrew the key.", node=node)
    if "HAS CHANGED" in said:
        return HostKeyError(
            f"its host key changed: {where} has another",
            hint="Someone may be intercepting, or the machine was reinstalled. If it was: "
            f"llmfleet trust {node} --replace",
            node=node,
        )
    return HostKeyError(
        f"its host key is not in {where}, and no authority there vouches for it",
        hint=f"If that is the machine you expect: llmfleet trust {node}",
        node=node,
    )
