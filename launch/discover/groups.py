"""Machines alike as one entry: names and hosts as ranges, where both count in step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from llmfleet.launch.discover.found import Found

Parts = tuple[str, str, str]  # a text around the number that counts; no number: all of it is before


def groups(machines: Iterable[Found]) -> list[tuple[Found, ...]]:
    """Alike in everything that an entry says, and with names and hosts of one pattern each. In order of appearance."""
    by_kind: dict[object, list[Found]] = {}
    for m in machines:
        name, host = _parts(m.name), _parts(m.host)
        kind = (m.gpus, m.link, m.nic, m.interface, m.access, m.problems, name[::2], host[::2])
        by_kind.setdefault(kind, []).append(m)
    return [
        tuple(sorted(part, key=_number_of))
        for members in by_kind.values()
        for by_name in _by_width(members, lambda m: m.name)
        for part in _by_width(by_name, lambda m: m.host)
    ]


def name_range(members: Sequence[Found]) -> str:
    return _range([m.name for m in members])


def host_range(members: Sequence[Found]) -> str:
    """Of as many members as the names, in their order."""
    return _range([m.host for m in members])


def _range(texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    before, _, after = _parts(texts[0])
    return f"{before}[{_spans([_parts(text)[1] for text in texts])}]{after}"


def _spans(numbers: Sequence[str]) -> str:
    """0, 1, 2, 5 as 0-2,5; in the order given."""
    runs: list[list[str]] = []
    for number in numbers:
        if runs and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _by_width(members: Sequence[Found], text: Callable[[Found], str]) -> list[list[Found]]:
    """Padded numbers of one width belong together: 08, 09, 10. Others may be as long as they like: 8, 9, 10."""
    numbers = [_parts(text(m))[1] for m in members]
    if not any(n.startswith("0") and len(n) > 1 for n in numbers):
        return [list(members)]
    by_width: dict[int, list[Found]] = {}
    for member, number in zip(members, numbers, strict=True):
        by_width.setdefault(len(number), []).append(member)
    return list(by_width.values())


def _parts(text: str) -> Parts:
    """Around the last number of an IPv4 address, and of a name's first label."""
    label = text if re.fullmatch(r"[0-9.]+", text) else text.split(".")[0]
    match = re.fullmatch(r"(.*?)([0-9]{1,9})([^0-9]*)", label)
    if match is None or ":" in text:
        return text, "", ""
    return match[1], match[2], match[3] + text[len(label) :]


def _number_of(machine: Found) -> int:
    return int(_parts(machine.name)[1] or 0)
