"""Files on a node through commands that every one has, over whatever runs commands there. A reader sees the old file or
the new one, never a part. Errors are in the words of the node's own system, which SFTP has no room for.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from llmfleet.launch.transport.base import Argv
from llmfleet.planner.errors import CommandError, InputError

CHUNK = 1 << 18
NOT_THERE = "No such file or directory"
# $1 path, $2 its folder, $3 temporary name, $4 mode, $5 size, $6 "keep" where a part may stay to be gone on with
PUT = """LC_ALL=C; export LC_ALL; umask 077
mkdir -p -- "$2" && cat >> "$3" && { [ "$(wc -c < "$3")" -eq "$5" ] || { echo "cat: cut short" >&2; false; }; } &&
  chmod "$4" "$3" && mv -T -- "$3" "$1" && exit 0
[ "$6" = keep ] || rm -f -- "$3"
exit 1"""
GET = 'LC_ALL=C; export LC_ALL; cat -- "$1"'
SIZE = 'LC_ALL=C; export LC_ALL; [ ! -f "$1" ] || wc -c < "$1"'
HINTS = {
    "Permission denied": "Does the SSH user own the folder? `runtime: dir` chooses another.",
    "No space left on device": "Free some on that disk, or set `runtime: {dir: …}` to a larger one.",
    "Disk quota exceeded": "Free some, or set `runtime: {dir: …}` to a disk without that quota.",
    "Read-only file system": "A disk that fails is often mounted so by the kernel: dmesg on the node.",
}


class Exchange(Protocol):
    """Runs a command with bytes on its stdin; its exit code, stdout and stderr. Errors as of Transport.run."""

    def __call__(self, argv: Argv, chunks: Iterable[bytes], /) -> tuple[int, bytes, bytes]: ...


class RemoteFiles:
    """Paths are absolute. `exchange` must not give a command up while its bytes still flow."""

    def __init__(self, node: str, exchange: Exchange) -> None:
        self._node, self._exchange = node, exchange

    def put(self, data: bytes, path: str, mode: int) -> None:
        temporary = f"{path}.{secrets.token_hex(4)}.part"
        self._put((data,), len(data), path, temporary, mode, keep=False)

    def put_file(
        self, source: Path, path: str, mode: int, progress: Callable[[int], None] | None, resume: str
    ) -> None:
        try:
            file = source.open("rb")
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}") from error
        with file:
            size = source.stat().st_size
            temporary = f"{path}.{resume or secrets.token_hex(4)}.part"
            begin = self._size(temporary) if resume else 0
            if begin > size:
                self._exchange(("rm", "-f", "--", temporary), ())
                begin = 0
            file.seek(begin)
            self._put(_chunks(file, begin, progress), size, path, temporary, mode, keep=bool(resume))

    def get(self, path: str) -> bytes | None:
        code, out, err = self._exchange(("sh", "-c", GET, "sh", path), ())
        if code == 0:
            return out
        if _why(err) == NOT_THERE:
            return None
        raise self._failed(f"{path} cannot be read", err)

    def _put(
        self, chunks: Iterable[bytes], size: int, path: str, temporary: str, mode: int, *, keep: bool
    ) -> None:
        words = (path, posixpath.dirname(path), temporary, f"{mode:o}", str(size), "keep" if keep else "")
        code, _, err = self._exchange(("sh", "-c", PUT, "sh", *words), chunks)
        if code != 0:
            raise self._failed(f"{path} cannot be written", err)

    def _size(self, path: str) -> int:
        _, out, _ = self._exchange(("sh", "-c", SIZE, "sh", path), ())
        return int(out) if out.strip().isdigit() else 0

    def _failed(self, what: str, stderr: bytes) -> CommandError:
        why = _why(stderr)
        return CommandError(f"{what}: {why or 'the node does not say why'}", hint=HINTS.get(why, ""), node=self._node)


def _chunks(file: BinaryIO, begin: int, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    done = begin
    while chunk := file.read(CHUNK):
        yield chunk
        done += len(chunk)
        if progress:
            progress(done)


def _why(stderr: bytes) -> str:
    """Of `cat: write error: No space left on device`, the last part."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].rpartition(": ")[2] if lines else ""
