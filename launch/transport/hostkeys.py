"""known_hosts as OpenSSH writes it, read with its tolerance, and the one check that every connection passes.

paramiko's own reader gives up on the whole file at the first line it does not know (`@cert-authority`, `@revoked`,
broken base64), and its client looks at one key type of a host. Hence this reader; it needs no SSH library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from llmfleet.planner.errors import HostKeyError

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class HostKey:
    type: str  # ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256 …
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.type} SHA256:{digest}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of known_hosts."""

    line: int
    marker: str  # "", "@revoked" or "@cert-authority"
    hosts: str
    key: HostKey

    def names(self, name: str) -> bool:
        """Whether the line is about `name`, with OpenSSH's rules: any pattern, and no negated one."""
        patterns = self.hosts.split(",")
        if any(_matches(p[1:], name) for p in patterns if p.startswith("!")):
            return False
        return any(_matches(p, name) for p in patterns)


class Entries:
    """Lines of known_hosts, found by name without looking at each: a fleet asks for as many names as it has lines."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.all = tuple(entries)
        self._plain: dict[str, list[Entry]] = {}
        self._patterns: list[Entry] = []
        for entry in self.all:
            if any(c in entry.hosts for c in "*?!|"):
                self._patterns.append(entry)
                continue
            for name in {host.lower() for host in entry.hosts.split(",")}:
                self._plain.setdefault(name, []).append(entry)

    def about(self, name: str) -> list[Entry]:
        """In the order of the file."""
        found = [*self._plain.get(name.lower(), ()), *(e for e in self._patterns if e.names(name))]
        return sorted(found, key=lambda e: e.line)


@dataclass(frozen=True, slots=True)
class KnownHosts:
    path: str  # as the inventory writes it, for messages
    entries: Entries

    def keys_of(self, name: str) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries.about(name) if not e.marker)

    def revocation_of(self, name: str, key: HostKey) -> Entry | None:
        return next((e for e in self.entries.about(name) if e.marker == "@revoked" and e.key == key), None)

    def has_authority_for(self, name: str) -> bool:
        return any(e.marker == "@cert-authority" for e in self.entries.about(name))


def name_of(host: str, port: int) -> str:
    """What known_hosts calls a server."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def read_known_hosts(path: str) -> KnownHosts:
    """The file's entries; none if there is no such file. HostKeyError when it cannot be read."""
    file = Path(path).expanduser()
    try:
        stat = file.stat()
        return KnownHosts(path, _entries(file, stat.st_mtime_ns, stat.st_size))
    except FileNotFoundError:
        return KnownHosts(path, Entries(()))
    except OSError as error:
        raise HostKeyError(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


@lru_cache(maxsize=8)
def _entries(file: Path, _mtime_ns: int, _size: int) -> Entries:
    text = file.read_bytes().decode("utf-8", "replace")
    return Entries(entry for number, line in enumerate(text.split("\n"), 1) if (entry := _entry(number, line)))


def _entry(number: int, line: str) -> Entry | None:
    """None for comments, blank lines and lines that make no sense: one bad line must not lock out the other hosts."""
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#") or marker not in ("", "@revoked", "@cert-authority"):
        return None
    hosts, key_type, encoded = words[:3]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:  # not base64, or not even ASCII
        return None
    named = key_type.encode()
    if blob[: 4 + len(named)] != len(named).to_bytes(4, "big") + named:
        return None
    return Entry(number, marker, hosts, HostKey(key_type, blob))


def _matches(pattern: str, name: str) -> bool:
    name = name.lower()
    if pattern.startswith("|1|"):
        return _hash_matches(pattern, name)
    parts = re.split(r"([*?])", pattern.lower())
    regex = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(regex, name) is not None


def _hash_matches(pattern: str, name: str) -> bool:
    """`|1|salt|hmac-sha1 of the name|`, both base64: what HashKnownHosts writes."""
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def verify(known: KnownHosts, name: str, key: HostKey, *, node: str, scan: str) -> None:
    """Returns when `key` is the server's; HostKeyError otherwise. `scan` is a command that prints the server's keys."""
    revoked = known.revocation_of(name, key)
    if revoked:
        raise HostKeyError(
            f"it offers the host key {key.fingerprint}, which {known.path}:{revoked.line} revokes",
            hint="Do not connect. Whoever maintains that file withdrew the key; the machine needs a new one.",
            node=node,
        )
    entries = known.keys_of(name)
    if any(e.key == key for e in entries):
        return
    if entries:
        raise _changed(known, name, key, entries, node, scan)
    raise _unknown(known, name, key, node, scan)


def _changed(
    known: KnownHosts, name: str, key: HostKey, entries: tuple[Entry, ...], node: str, scan: str
) -> HostKeyError:
    old = next((e for e in entries if e.key.type == key.type), entries[0])
    return HostKeyError(
        f"its host key changed: {known.path}:{old.line} has {old.key.fingerprint}, it offers {key.fingerprint}",
        hint="Someone may be intercepting, or the machine was reinstalled. If it was: "
        f"llmfleet trust {node} --replace\n    (or: ssh-keygen -R '{name}' -f {known.path} && {scan} >> {known.path})",
        node=node,
    )


def _unknown(known: KnownHosts, name: str, key: HostKey, node: str, scan: str) -> HostKeyError:
    authority = ""
    if known.has_authority_for(name):
        authority = f"; the @cert-authority lines of {known.path} count with `transport: openssh` only"
    return HostKeyError(
        f"its host key is not in {known.path} (it offers {key.fingerprint}{authority})",
        hint=f"If that is the machine you expect: llmfleet trust {node}\n    (or: {scan} >> {known.path})",
        node=node,
    )
