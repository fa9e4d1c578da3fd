"""Host keys that a person vouches for: what a server offers beside what known_hosts has, and new lines of that file."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmfleet.launch.transport.hostkeys import Entry, HostKey, KnownHosts, name_of, read_known_hosts
from llmfleet.planner.errors import HostKeyError, InputError
from llmfleet.planner.inventory.model import Access

State = Literal["known", "new", "changed", "revoked"]


@dataclass(frozen=True, slots=True)
class Target:
    """A server whose keys are asked for: a node, a jump host, or any host. `host` is [user@]host[:port]."""

    name: str
    host: str
    access: Access


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """A key that a server has proven to hold. `line`: where known_hosts has it, or the key that it replaces."""

    key: HostKey
    state: State
    line: int | None = None
    old: HostKey | None = None  # the key that known_hosts has in its place


@dataclass(frozen=True, slots=True)
class Review:
    """`name` is what known_hosts calls the server."""

    target: Target
    name: str
    known_hosts: str
    keys: tuple[OfferedKey, ...]

    def of(self, *states: State) -> tuple[OfferedKey, ...]:
        return tuple(k for k in self.keys if k.state in states)


def review(target: Target) -> Review:
    """Asks the server for its keys, of every type, one connection each. Errors as of Transport.connect, of HostKeyError
    only those of a jump host on the way."""
    from llmfleet.launch.transport.gateway import gateway_to
    from llmfleet.launch.transport.link import Link

    gateway = gateway_to(target.host, target.access)
    link = Link(target.name, target.host, target.access, gateway)
    if gateway:
        gateway.enter()
    try:
        offered = link.host_keys()
    finally:
        if gateway:
            gateway.leave()
    known, name = read_known_hosts(target.access.known_hosts), name_of(link.host, link.port)
    return Review(target, name, target.access.known_hosts, compared(known, name, offered))


def compared(known: KnownHosts, name: str, offered: Sequence[HostKey]) -> tuple[OfferedKey, ...]:
    entries = known.keys_of(name)
    proven = any(e.key == key for e in entries for key in offered)
    return tuple(_compared(known, name, key, entries, proven=proven) for key in offered)


def _compared(known: KnownHosts, name: str, key: HostKey, entries: Sequence[Entry], *, proven: bool) -> OfferedKey:
    revoked = known.revocation_of(name, key)
    if revoked:
        return OfferedKey(key, "revoked", revoked.line)
    same = next((e for e in entries if e.key == key), None)
    if same:
        return OfferedKey(key, "known", same.line)
    # Another key of its type; or of any type, where nothing that it offers is known.
    other = next((e for e in entries if e.key.type == key.type), None) or (
        entries[0] if entries and not proven else None
    )
    return OfferedKey(key, "changed", other.line, other.key) if other else OfferedKey(key, "new")


def demanded(found: Review, fingerprint: str) -> Review:
    """The review with only the key of that fingerprint. HostKeyError when the server does not offer it."""
    wanted = fingerprint.removeprefix("SHA256:").rstrip("=")
    keys = tuple(k for k in found.keys if k.key.fingerprint.endswith(f" SHA256:{wanted}"))
    if not keys:
        offered = ", ".join(k.key.fingerprint for k in found.keys)
        raise HostKeyError(
            f"it does not offer a key SHA256:{wanted}; it offers {offered}",
            hint="Do not connect, unless the fingerprint was mistyped.",
            node=found.target.name,
        )
    return Review(found.target, found.name, found.known_hosts, keys)


def refuse(found: Review, *, replace: bool) -> None:
    """HostKeyError for keys that must not be stored: revoked ones, and changed ones that nobody asked to replace."""
    node = found.target.name
    for each in found.of("revoked"):
        raise HostKeyError(
            f"it offers {each.key.fingerprint}, which {found.known_hosts}:{each.line} revokes",
            hint="Do not connect. Whoever maintains that file withdrew the key; the machine needs a new one.",
            node=node,
        )
    for each in found.of("changed") if not replace else ():
        old = each.old.fingerprint if each.old else ""
        raise HostKeyError(
            f"its host key changed: {found.known_hosts}:{each.line} has {old}, it offers {each.key.fingerprint}",
            hint="Someone may be intercepting, or the machine was reinstalled. Compare with the machine's own: "
            f"ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub. If it is that: llmfleet trust {node} --replace",
            node=node,
        )


def store(found: Review, *, replace: bool = False) -> tuple[HostKey, ...]:
    """Adds what is not in known_hosts yet, hashed where the file is; what it replaces goes. Returns what was added."""
    refuse(found, replace=replace)
    wanted = found.of("new", "changed")
    if not wanted:
        return ()
    path = Path(found.known_hosts).expanduser().resolve()
    text = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
    hashed = any(line.startswith("|1|") for line in text.splitlines())
    kept = _without(text, found) if found.of("changed") else text
    if kept and not kept.endswith("\n"):
        kept += "\n"
    name = _hashed(found.name) if hashed else found.name
    added = "".join(f"{name} {k.key.type} {base64.b64encode(k.key.blob).decode()}\n" for k in wanted)
    _write(path, kept + added)
    return tuple(k.key for k in wanted)


def _without(text: str, found: Review) -> str:
    """The file without the server's keys: as `ssh-keygen -R`, but a line that also names others keeps those."""
    about = {e.line: e for e in read_known_hosts(found.known_hosts).keys_of(found.name)}
    lines = text.split("\n")
    for number, entry in about.items():
        hosts = entry.hosts.split(",")
        others = [h for h in hosts if h.lower() != found.name.lower() and not h.startswith("|1|")]
        if any(c in host for host in hosts for c in "*?!"):
            raise InputError(
                f"{found.known_hosts}:{number} is about a pattern, {entry.hosts}, and not about {found.name} alone",
                hint="Edit that line by hand.",
                node=found.target.name,
            )
        line = lines[number - 1]
        lines[number - 1] = line.replace(entry.hosts, ",".join(others), 1) if others else "\0"
    return "\n".join(line for line in lines if line != "\0")


def _hashed(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.new(salt, name.lower().encode(), "sha1").digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _write(path: Path, text: str) -> None:
    """In one step, so that a reader never sees half a file; with the mode that it had."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with temporary.open("x", encoding="utf-8", errors="surrogateescape") as file:
            temporary.chmod(mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror}", hint=f"ls -l {path}") from error
