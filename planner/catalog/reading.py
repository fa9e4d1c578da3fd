"""The catalogue's YAML as typed values. A mistake in a user's own file is an InputError that names entry and key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from llmfleet.planner.catalog.types import Efficiency, EngineRelease, Gpu, Quantization
from llmfleet.planner.errors import InputError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C reader is ten times as fast
T = TypeVar("T")
FOLDER = Path(__file__).parent
USUAL = Efficiency(0.75, 0.45, 0.5)  # where no class near it was measured


def load(text: str, where: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506  a safe loader
    except yaml.YAMLError as error:
        raise InputError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InputError(f"{where}: keys with values are needed")
    return raw


def packaged(name: str) -> dict[str, Any]:
    """One of the catalogue's own files; empty where there is none of that name."""
    return load(packaged_text(name), name)


def packaged_text(name: str) -> str:
    file = FOLDER / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def entry(where: str, name: str, raw: object, build: Callable[[str, Mapping[str, Any]], T]) -> T:
    """Raises InputError when a key is missing, unknown or of the wrong kind."""
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: {name}: keys with values are needed")
    try:
        return build(name, raw)
    except KeyError as error:
        raise InputError(f"{where}: {name}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {name}: {error}") from error


def gpu(name: str, raw: Mapping[str, Any]) -> Gpu:
    known = _known(Gpu, raw)
    optional = {k: known[k] for k in ("link_gbs", "link_group", "pcie_gen", "p2p", "tdp_w", "calibrated") if k in known}
    return Gpu(
        name=name,
        vendor=known["vendor"],
        arch=str(known["arch"]),
        memory_mib=int(known["memory_mib"]),
        visible_gib=_positive(known.get("visible_gib", int(known["memory_mib"]) / 1024 - 0.46)),
        bandwidth_gbs=_positive(known["bandwidth_gbs"]),
        tflops={str(k): _positive(v) for k, v in known["tflops"].items()},
        compute_capability=capability(known.get("compute_capability")),
        aliases=tuple(map(str, known.get("aliases", ()))),
        efficiency=Efficiency(**known["efficiency"]) if "efficiency" in known else USUAL,
        **optional,
    )


def release(_: str, raw: Mapping[str, Any]) -> EngineRelease:
    known = _known(EngineRelease, raw)
    return EngineRelease(
        engine=known["engine"],
        version=str(known["version"]),
        vendors=tuple(known["vendors"]),
        tasks=tuple(known["tasks"]),
        min_capability=capability(known.get("min_capability")),
        max_capability=capability(known.get("max_capability")),
        built_to=capability(known.get("built_to")),
        image=known.get("image"),
        precisions=tuple(known.get("precisions", ())),
        note=known.get("note", ""),
    )


def quantization(name: str, raw: Mapping[str, Any]) -> Quantization:
    return Quantization(
        name=name,
        bits_per_weight=_positive(raw["bits"]),
        group_size=raw.get("group"),
        min_capability=capability(raw.get("min_capability")),
        native_capability=capability(raw.get("native_capability")),
        engine=raw.get("engine", "vllm"),
    )


def capability(text: object) -> tuple[int, int] | None:
    """ "8.6" as (8, 6)."""
    if text is None:
        return None
    major, _, minor = str(text).partition(".")
    return int(major), int(minor or 0)


def _known(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    allowed = {f.name for f in fields(kind)} - {"paces", "throughputs"} | {"source"}
    unknown = [key for key in raw if key not in allowed]
    if unknown:
        raise ValueError(f"{unknown[0]} is no known key; known are {', '.join(sorted(allowed))}")
    return dict(raw)


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ValueError(f"{value!r} where a positive number is needed")
    return float(value)
