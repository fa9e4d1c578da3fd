"""Traces that an inventory names, read into figures of its traffic."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from llmfleet.launch.named_files import read_named
from llmfleet.planner.errors import InputError, InventoryError
from llmfleet.planner.inventory.asked import Traffic
from llmfleet.planner.inventory.findings import Finding
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.parse import located

if TYPE_CHECKING:
    from llmfleet.planner.traffic.traces import Traced

def with_traces(inventory: Inventory, path: Path, text: bytes) -> Inventory:
    """`text` is the inventory's, `path` its file, from whose folder relative traces are found.

    Raises InventoryError with every trace that is not there or has a line that is no request, each with its place.
    """
    findings: list[Finding] = []
    services = list(inventory.services)
    for index, service in enumerate(services):
        if service.traffic is None or service.traffic.trace is None:
            continue
        try:
            traffic = _read(service.traffic, path.resolve().parent / Path(service.traffic.trace).expanduser())
        except InputError as error:
            findings.append(Finding(("services", index, "traffic", "trace"), f"{error.message}.", error.hint))
        else:
            services[index] = service.model_copy(update={"traffic": traffic})
    if findings:
        raise InventoryError(located(findings, text, str(path)))
    return inventory.model_copy(update={"services": tuple(services)}) if services else inventory


def _read(written: Traffic, file: Path) -> Traffic:
    from llmfleet.planner.traffic.summary import traffic_of

    return traffic_of(trace_of(file), written)


def trace_of(file: Path) -> tuple[Traced, ...]:
    """The requests of a trace on this machine, in the order of arrival. Raises InputError that names the file."""
    from llmfleet.planner.traffic.traces import read_trace

    try:
        text = read_named(file).decode()
    except OSError as error:
        hint = "A part of it will do: some ten thousand requests." if error.errno == errno.EFBIG else ""
        raise InputError(f"{file} cannot be read: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text") from None
    return read_trace(text, str(file))
