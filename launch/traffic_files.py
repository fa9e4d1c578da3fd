"""Traces that an inventory names, read into figures of its traffic."""

from __future__ import annotations

from pathlib import Path

from llmfleet.planner.errors import InputError, InventoryError
from llmfleet.planner.inventory.asked import Traffic
from llmfleet.planner.inventory.findings import Finding
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.parse import located

MOST_BYTES = 1 << 30


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
    from llmfleet.planner.traffic.traces import read_trace

    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"{file} is larger than 1 GiB", hint="A part of it will do: some ten thousand requests")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text") from None
    return traffic_of(read_trace(text, str(file)), written)
