"""Many names as one: a800-0, a800-1 as a800-[0-1]."""

from __future__ import annotations

import re
from collections.abc import Iterable

NUMBERED = re.compile(r"^(.*?)([0-9]+)$")


def compressed(names: Iterable[str]) -> str:
    """Ranges as an inventory writes them, in the order in which the first of each was named."""
    groups: dict[tuple[str, int], list[int]] = {}
    for name in names:
        match = NUMBERED.match(name)
        stem, digits = (match[1], match[2]) if match else (name, "")
        width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
        groups.setdefault((stem, width), []).extend([int(digits)] if digits else [])
    return ", ".join(_range(stem, width, sorted(numbers)) for (stem, width), numbers in groups.items())


def _range(stem: str, width: int, numbers: list[int]) -> str:
    if len(numbers) < 2:
        return stem + "".join(str(n).zfill(width) for n in numbers)
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    said = (str(a).zfill(width) if a == b else f"{str(a).zfill(width)}-{str(b).zfill(width)}" for a, b in runs)
    return f"{stem}[{','.join(said)}]"
