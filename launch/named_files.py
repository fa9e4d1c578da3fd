"""Reading files that a person names: inventories, traces, calibrations, configs."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 1 << 30


def read_named(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of the file. Raises OSError; also for a device, and for more than `most` bytes."""
    with open_named(path) as file:
        known = os.fstat(file.fileno()).st_size
        found = file.read(most + 1) if known <= most else b""
    if max(known, len(found)) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB")
    return found


def open_named(path: Path) -> BinaryIO:
    """A file; or a pipe, as of `<(zcat trace.gz)`: one that nobody writes to is empty.

    Raises OSError, also for a device.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    kind = os.fstat(file.fileno()).st_mode
    if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
        file.close()
        raise OSError(errno.ENODEV, "it is a device, not a file")
    os.set_blocking(file.fileno(), True)
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Else opening a pipe waits until somebody opens its other end."""
    return os.open(path, flags | os.O_NONBLOCK)
