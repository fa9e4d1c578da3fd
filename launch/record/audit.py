"""Who changed what, when, and what came of it: a line for every changed step, here and on the node it changed.

    .llmfleet/audit.log            every step that runs from this machine took
    <folder of the node>/logs/audit.log   every step taken on that node, from whatever machine

A file that has grown to MOST_BYTES becomes audit.1.log, in place of the one that was there. Each line is a JSON object.
It says what a step is called and how it ended, never what was in it: no argv, no
environment, no file's content, and so no secret.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmfleet.launch.fleet import node_folder
from llmfleet.launch.record.lock import Holder
from llmfleet.launch.transport import open_transport
from llmfleet.launch.transport.base import Argv
from llmfleet.planner.errors import CommandError, StateError
from llmfleet.planner.inventory.model import Inventory

FILE = "audit.log"
MOST_BYTES = 4 << 20  # some ten thousand steps
APPEND = (
    'umask 077; mkdir -p -- "$(dirname -- "$1")" && '
    '{ [ "$(wc -c 2>/dev/null <"$1" || echo 0)" -lt "$4" ] || mv -f -- "$1" "$3"; } && printf "%s\\n" "$2" >>"$1"'
)
TAIL = '{ [ ! -e "$2" ] || cat -- "$2"; cat -- "$1"; } | tail -n "$3"'
LONGEST = 500  # characters of an error


@dataclass(frozen=True, slots=True)
class Entry:
    at: str  # ISO 8601, UTC
    who: str  # user@machine
    command: str
    node: str
    phase: str
    step: str
    result: str  # "done", or "failed: " and why
    plan: str = ""

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def entry(by: Holder, *, node: str, phase: str, step: str, error: str = "", plan: str = "") -> Entry:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    result = f"failed: {error[:LONGEST]}" if error else "done"
    return Entry(now, f"{by.user}@{by.host}", by.command, node, phase, step, result, plan)


def parse_entries(lines: Iterable[str]) -> list[Entry]:
    """Lines that are no entries, as one cut short by a full disk, are passed over."""
    found = []
    for line in lines:
        try:
            raw = json.loads(line)
            found.append(Entry(**{key: str(raw.get(key, "")) for key in Entry.__dataclass_fields__}))
        except (ValueError, AttributeError):
            continue
    return found


def append_command(path: str, line: str) -> Argv:
    """Adds the line to the file on a node, which its owner alone can read."""
    return ("sh", "-c", APPEND, "sh", path, line, older(path), str(MOST_BYTES))


def older(path: str) -> str:
    return f"{path.removesuffix('.log')}.1.log"


def node_audit(inventory: Inventory, name: str, last: int) -> list[Entry]:
    """The newest entries of one node. Raises UnknownNameError, TransportError; CommandError where it cannot be read."""
    node = inventory.node(name)
    transport = open_transport(node)
    try:
        path = node_folder(node, inventory.cluster, transport.home()).audit
        if not transport.run(("test", "-e", path)).ok:
            return []
        done = transport.run(("sh", "-c", TAIL, "sh", path, older(path), str(last)))
        if not done.ok:
            raise CommandError(f"its audit log cannot be read: {done.stderr.strip()}", node=name, hint=f"ls -l {path}")
        return parse_entries(done.stdout.splitlines())
    finally:
        transport.close()


class AuditFile:
    """The file on this machine. Lines of several threads, and of several runs, do not mix."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._mutex = threading.Lock()

    def append(self, line: str) -> None:
        """Raises OSError."""
        with self._mutex:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileNotFoundError):
                if self.path.stat().st_size >= MOST_BYTES:
                    self.path.replace(older(str(self.path)))
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line.encode(errors="replace") + b"\n")
            finally:
                os.close(handle)

    def read(self, last: int | None = None) -> list[Entry]:
        lines: list[str] = []
        for path in (Path(older(str(self.path))), self.path):
            try:
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StateError(f"{path} cannot be read: {error.strerror}", hint=f"ls -ld {path}") from None
        entries = parse_entries(lines)
        return entries if last is None else entries[-last:]
