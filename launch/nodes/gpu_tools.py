"""What GPU makers' command-line tools say, as values. The commands themselves are in remote/facts.py."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Link = Literal["nvlink", "pcie", "none"]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU as its driver reports it."""

    index: int
    name: str
    memory_mib: int
    used_mib: int
    driver: str
    uuid: str = ""
    compute_mode: str = ""  # Default, Exclusive_Process, Prohibited; or that the card has none


def parse_nvidia_smi(text: str) -> tuple[GpuFacts, ...]:
    """Lines of index, name, memory.total, memory.used, driver_version and, if asked for, uuid and compute_mode.

    MIG or broken cards that report no memory count 0.
    """
    return tuple(GpuFacts(int(r[0]), r[1], _mib(r[2]), _mib(r[3]), r[4], *r[5:7]) for r in _rows(text))


def parse_hl_smi(text: str) -> tuple[GpuFacts, ...]:
    """Lines of index, name, memory.total, memory.used, driver_version; sizes with or without their MiB."""
    return tuple(GpuFacts(int(r[0]), r[1], _mib(r[2]), _mib(r[3]), r[4]) for r in _rows(text))


def parse_rocm_smi(text: str) -> tuple[GpuFacts, ...]:
    """JSON by card; the tool may warn in front of it. Keys changed their capitals between releases."""
    found: Mapping[str, Any] = json.loads(text[text.index("{") :])
    driver = _value(found.get("system", {}), "driver version")
    cards = sorted((int(key[4:]), value) for key, value in found.items() if re.fullmatch(r"card[0-9]+", key))
    return tuple(
        GpuFacts(
            index,
            _amd_name(_value(card, "card series")),
            _bytes_as_mib(_value(card, "vram total memory (b)")),
            _bytes_as_mib(_value(card, "vram total used memory (b)")),
            driver,
        )
        for index, card in cards
    )


def parse_npu_smi(text: str) -> tuple[GpuFacts, ...]:
    """The table of `npu-smi info`: two lines a chip, the name in the first, the memory in the second.

    Chips count from 0 in the order of the table: that is how ASCEND_RT_VISIBLE_DEVICES counts them.
    """
    version = re.search(r"Version: *(\S+)", text)
    chips = list(_npu_chips(text))
    return tuple(
        GpuFacts(index, f"Ascend {name.removeprefix('Ascend')}", total, used, version[1] if version else "")
        for index, (name, used, total) in enumerate(chips)
    )


def _npu_chips(text: str) -> Iterator[tuple[str, int, int]]:
    name = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            continue
        first = re.fullmatch(r"[0-9]+ +(\S+)", cells[0])
        memory = re.findall(r"([0-9]+) */ *([0-9]+)", cells[2])
        if re.fullmatch(r"[0-9A-Fa-f]{4}:\S+", cells[1]):
            if name and memory:
                yield name, int(memory[-1][0]), int(memory[-1][1])  # HBM is the last column
        elif first and not cells[1].isdigit():
            name = first[1]


GPU_TOOLS: Mapping[str, tuple[str, Callable[[str], tuple[GpuFacts, ...]]]] = {
    "nvidia-smi": ("nvidia", parse_nvidia_smi),
    "rocm-smi": ("amd", parse_rocm_smi),
    "npu-smi": ("ascend", parse_npu_smi),
    "hl-smi": ("intel", parse_hl_smi),
}


def parse_cuda(text: str) -> str | None:
    """The newest CUDA that the driver runs, from the head of nvidia-smi's table."""
    found = re.search(r"CUDA(?: UMD)? Version: *([0-9.]+)", text)
    return found[1] if found else None


def parse_topology(text: str) -> Link | None:
    """The link that every pair of GPUs has, from `nvidia-smi topo -m`: NVLink only where all pairs have it.

    None where the table cannot be read, or there is one GPU.
    """
    lines = (line.split() for line in text.splitlines())
    rows = [cells for cells in lines if "X" in cells and re.fullmatch(r"GPU[0-9]+", cells[0])]
    if any(len(row) <= len(rows) for row in rows):
        return None
    pairs = [row[1 + other] for number, row in enumerate(rows) for other in range(len(rows)) if other != number]
    if not pairs:
        return None
    return "nvlink" if all(re.fullmatch(r"NV[0-9]+", link) for link in pairs) else "pcie"


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]


def _mib(cell: str) -> int:
    number = cell.removesuffix("MiB").strip()
    return int(number) if number.isdigit() else 0


def _bytes_as_mib(text: str) -> int:
    return int(text) // MIB if text.isdigit() else 0


def _value(card: Mapping[str, Any], key: str) -> str:
    return next((str(value) for name, value in card.items() if name.lower() == key), "")


def _amd_name(series: str) -> str:
    """Arcturus GL-XL [AMD Instinct MI100]: people know what stands in the brackets."""
    inside = re.search(r"\[([^]]+)\]", series)
    return inside[1] if inside else series
