"""The GPUs of a node as people write them: "8 x A800-80G", and "2 x CPU-4G" for CPU slots."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmfleet.planner.inventory.shapes import Shape, UnreadableError, shown

MOST_GPUS = 64

_GROUP = re.compile(r" *([0-9]{1,4}) *[xX×*] *([A-Za-z0-9][A-Za-z0-9 ._()+/-]{0,79})")
_CPU_SLOT = re.compile(r"CPU-([0-9]{1,5})G")


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """So many GPUs of one kind in a node. `name` is as written: the catalogue knows names and their aliases."""

    count: int
    name: str

    def __str__(self) -> str:
        return f"{self.count} x {self.name}"


def parse_gpus(text: str) -> GpuGroup:
    """Raises UnreadableError, a ValueError, in words."""
    match = _GROUP.fullmatch(text)
    if not match:
        raise UnreadableError(f'expected a count and a GPU such as "8 x A800-80G", not {shown(text)}.')
    group = GpuGroup(int(match[1]), match[2].strip())
    if not 1 <= group.count <= MOST_GPUS:
        raise UnreadableError(f"expected 1 to {MOST_GPUS} GPUs in a node, not {group.count}.")
    if group.name.upper().startswith("CPU") and not cpu_slot_gib(group.name):
        raise UnreadableError(f'expected CPU slots such as "2 x CPU-4G", 4 GiB each, not {shown(text)}.')
    return group


def cpu_slot_gib(name: str) -> int | None:
    """Memory of one CPU slot in GiB: 4 for "CPU-4G"; None for a GPU."""
    match = _CPU_SLOT.fullmatch(name)
    return int(match[1]) or None if match else None


def _normal(text: str) -> str:
    return str(parse_gpus(text))


GPUS = Shape(
    'a count and a GPU such as "8 x A800-80G"',
    pattern=rf"^{_GROUP.pattern}$",
    examples=("8 x A800-80G", "2 x CPU-4G"),
    check=_normal,
)
