"""sha256 of local files, remembered by size and time of change: weights are hashed once, not at every `up`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from llmfleet.launch.record.state import write_atomically

CHUNK = 8 << 20
Sums = Mapping[str, tuple[int, str]]  # path below the source ("" for the source itself) → size, sha256


def source_files(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())


def source_bytes(source: Path) -> int:
    return sum(file.stat().st_size for file in source_files(source))


def source_sums(source: Path, memory: Path) -> Sums:
    """`memory` is the JSON file that keeps known sums; it is only a cache and may be deleted."""
    known = _load(memory)
    files = source_files(source)
    fresh = {str(f): _entry(f, known) for f in files}
    if any(known.get(path) != entry for path, entry in fresh.items()):
        write_atomically(memory, json.dumps({**known, **fresh}, indent=1, sort_keys=True).encode())
    return {
        ("" if f == source else str(f.relative_to(source))): (f.stat().st_size, str(fresh[str(f)][2])) for f in files
    }


def _load(memory: Path) -> dict[str, list[object]]:
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _entry(path: Path, known: Mapping[str, list[object]]) -> list[object]:
    stat = path.stat()
    entry = known.get(str(path))
    if entry and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
        return entry
    return [stat.st_size, stat.st_mtime_ns, _sha256(path)]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
