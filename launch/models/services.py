"""The models of an inventory's services, or everything that is wrong with them, each with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmfleet.launch.models.files import resolve_model
from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import InputError, InventoryError, UnknownNameError
from llmfleet.planner.inventory.findings import Finding
from llmfleet.planner.inventory.model import Inventory, Service
from llmfleet.planner.inventory.parse import located
from llmfleet.planner.model.types import Model


def service_models(inventory: Inventory, path: Path) -> dict[str, Model]:
    """Models by the name of their service. `path` is the inventory's file, from whose folder relative paths start.

    Raises InventoryError with every model that is unknown, not understood or of another task, and every precision
    that nobody knows.
    """
    models: dict[str, Model] = {}
    findings: list[Finding] = []
    for index, service in enumerate(inventory.services):
        findings += _unknown_precisions(service, index)
        try:
            models[service.name] = _model_of(service, path.resolve().parent)
        except InputError as error:
            key = "config" if service.config else "model"
            findings.append(Finding(("services", index, key), _sentence(error.message), error.hint))
            continue
        findings += _wrong_task(service, models[service.name], index)
    if findings:
        raise InventoryError(located(findings, path.read_bytes() if path.is_file() else None, str(path)))
    return models


def _model_of(service: Service, base: Path) -> Model:
    return resolve_model(
        service.model, base=base, config=service.config, source=service.source, path=service.path, task=service.task
    )


def _unknown_precisions(service: Service, index: int) -> Iterator[Finding]:
    for position, name in enumerate(service.precision):
        try:
            catalog().quantization(name)
        except UnknownNameError as error:
            yield Finding(("services", index, "precision", position), error.message, error.hint)


def _wrong_task(service: Service, model: Model, index: int) -> Iterator[Finding]:
    if model.encoder_only and service.task == "generate":
        message = f"{service.model} is an encoder ({model.architecture}) and cannot generate."
        yield Finding(("services", index, "task"), message, "Its task is embed or rerank.")


def _sentence(message: str) -> str:
    return message if message.endswith(".") else f"{message}."
