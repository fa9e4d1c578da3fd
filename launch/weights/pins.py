"""What a hub's repository was when it was first fetched, kept beside the inventory: later nodes get the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmfleet.launch.models.checksums import Sums
from llmfleet.launch.record.state import write_atomically

FILE = "weights.json"
_mutex = threading.Lock()


@dataclass(frozen=True, slots=True)
class Pin:
    revision: str
    files: Sums

    def manifest(self, source: str) -> bytes:
        """As it lies beside the copy on each node."""
        return json.dumps({"source": source, **self.as_json()}, indent=1, sort_keys=True).encode()

    def as_json(self) -> dict[str, Any]:
        return {"revision": self.revision, "files": {name: list(entry) for name, entry in self.files.items()}}


def pin_of(folder: Path, source: str) -> Pin | None:
    return _pin(_load(folder / FILE).get(source))


def keep_pin(folder: Path, source: str, pin: Pin) -> None:
    with _mutex:
        known = {**_load(folder / FILE), source: pin.as_json()}
        write_atomically(folder / FILE, json.dumps(known, indent=1, sort_keys=True).encode())


def pin_from_manifest(body: bytes | None, source: str) -> Pin | None:
    """Of a node that was served before, perhaps from another machine."""
    try:
        raw = json.loads(body or b"")
    except ValueError:
        return None
    return _pin(raw) if isinstance(raw, dict) and raw.get("source") == source else None


def _load(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _pin(raw: Any) -> Pin | None:
    try:
        files: Mapping[str, Any] = raw["files"]
        return Pin(str(raw["revision"]), {name: (int(size), str(digest)) for name, (size, digest) in files.items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
