"""calibration.yaml as commands find it: named by an option, or beside the inventory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmfleet.launch.named_files import read_named
from llmfleet.planner.errors import FleetError, InputError

if TYPE_CHECKING:
    from llmfleet.planner.catalog import Catalog
    from llmfleet.planner.model.types import Model

FILE_NAME = "calibration.yaml"


def with_calibration(catalog: Catalog, file: Path, model_of: Callable[[str], Model | None]) -> Catalog:
    """The catalogue with the file's measurements. Raises InputError that names the file."""
    from llmfleet.planner.speed.calibration import calibrated
    from llmfleet.planner.speed.measurements import read_calibration
    from llmfleet.planner.speed.throughputs import with_throughputs

    try:
        text = read_named(file)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}", hint="docs/calibration.md has its format; bench writes it."
        ) from None
    if all(not line.strip() or line.lstrip().startswith(b"#") for line in text.splitlines()):
        raise InputError(f"{file} is empty", hint="Remove it, or write into it what docs/calibration.md shows.")
    found = read_calibration(text, str(file))
    try:
        return with_throughputs(calibrated(catalog, found.measurements, model_of), found.throughputs)
    except FleetError as error:
        raise InputError(f"{file}: {error.message}", hint=error.hint) from None


def catalog_for(inventory: Path, models: Iterable[Model]) -> Catalog:
    """With the calibration that lies beside the inventory, where there is one."""
    from llmfleet.planner.catalog import catalog

    file = inventory.resolve().parent / FILE_NAME
    if not (file.exists() or file.is_symlink()):  # a link to nowhere is a mistake that wants to be told
        return catalog()
    known = {model.name: model for model in models}
    return with_calibration(catalog(), file, known.get)
