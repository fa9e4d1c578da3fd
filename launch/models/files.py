"""Models from files of this machine: config.json, safetensors headers, GGUF headers, the local hub cache."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfleet.launch.named_files import open_named, read_named
from llmfleet.planner.errors import ModelError, UnknownNameError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.reader import model_from_config
from llmfleet.planner.model.types import Model

if TYPE_CHECKING:
    from llmfleet.planner.model.checkpoint import Stored

INDEX = "model.safetensors.index.json"
LARGEST_CONFIG = 64 << 20
LARGEST_HEADER = 256 << 20


def resolve_model(
    name: str,
    *,
    base: Path = Path(),
    config: str | None = None,
    source: str | None = None,
    path: str | None = None,
    task: Task | None = None,
) -> Model:
    """A model by its id or place: a config that was given, the catalogue, a local folder or file, the hub cache.

    `base` is what relative paths start from. Raises ModelError or UnknownNameError.
    """
    if config:
        return renamed(read_model(_from(base, config), task=task), name)
    known = _catalogued(name)
    if known:
        return known
    for place in (name, source, path):
        if place and _from(base, place).exists():
            return renamed(read_model(_from(base, place), task=task), name)
    cached = hub_snapshot(name)
    if cached:
        return renamed(read_model(cached, task=task), name)
    raise _unknown(name)


def _catalogued(name: str) -> Model | None:
    from llmfleet.planner.catalog import catalog

    return catalog().model(name)


def _from(base: Path, place: str) -> Path:
    return base / Path(place).expanduser()


def renamed(model: Model, name: str) -> Model:
    return replace(model, name=name)


def _unknown(name: str) -> UnknownNameError:
    from difflib import get_close_matches

    from llmfleet.planner.catalog import catalog
    from llmfleet.planner.catalog.kin import kin

    near, likely = get_close_matches(name, catalog().models, n=3, cutoff=0.5), kin(name, catalog().models)
    hint = "Give a folder with the model's config.json, or the file itself."
    return UnknownNameError(
        "model, folder or file", name, near, hint=f"Its name says {likely}. {hint}" if likely else hint
    )


def likely_model(name: str) -> tuple[Model, str] | None:
    """What a name alone says where nothing describes it, and that in words."""
    from llmfleet.planner.catalog import catalog
    from llmfleet.planner.catalog.kin import assumed, kin

    likely = kin(name, catalog().models)
    base = catalog().model(likely.base) if likely else None
    if likely is None or base is None:
        return None
    return assumed(name, base, likely.precision), f"{name} is taken for {likely}: its name says so, no file was read"


def hub_snapshot(model_id: str) -> Path | None:
    """The newest snapshot of a model in the Hugging Face cache of this machine."""
    if model_id.count("/") != 1 or ".." in model_id:
        return None
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{model_id.replace('/', '--')}"
    snapshots = [p for p in (hub / "snapshots").glob("*") if (p / "config.json").exists()]
    return max(snapshots, key=lambda p: p.stat().st_mtime) if snapshots else None


def read_model(path: Path, *, task: Task | None = None) -> Model:
    """A folder with a config.json or one GGUF file; a config.json by any name; a GGUF file. Raises ModelError."""
    if path.is_dir():
        if (path / "config.json").exists():
            return _read_config(path / "config.json", task)
        gguf = sorted(path.glob("*.gguf"))
        if len(gguf) == 1:
            return _read_gguf(gguf[0], task)
        raise ModelError(f"{path}: no config.json and {'no' if not gguf else 'more than one'} GGUF file in this folder")
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    return _read_gguf(path, task) if path.suffix == ".gguf" else _read_config(path, task)


def _read_gguf(path: Path, task: Task | None) -> Model:
    from llmfleet.planner.model.gguf_header import model_from_gguf, read_header

    try:
        with open_named(path) as stream:
            header = read_header(stream, str(path))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    return model_from_gguf(header, name=path.stem, task=task, where=str(path))


def _read_config(path: Path, task: Task | None) -> Model:
    raw = read_json(path, LARGEST_CONFIG)
    tensors = read_tensors(path.parent)
    if not tensors:
        model = _understood(raw, path, task)
        return replace(model, exact_bytes=_indexed_bytes(path.parent))
    from llmfleet.planner.model.checkpoint import majority_dtype, with_tensors

    if not {"torch_dtype", "dtype"} & set(raw):
        found = majority_dtype(tensors)
        raw = {**raw, **({"torch_dtype": found} if found else {})}
    return with_tensors(_understood(raw, path, task), tensors)


def _understood(raw: dict[str, Any], path: Path, task: Task | None) -> Model:
    name = str(path.parent if path.name == "config.json" else path)
    model = model_from_config(raw, name=name, task=task, where=str(path))
    if (path.parent / "params.json").exists() and model.architecture == "Mistral3ForConditionalGeneration":
        return replace(model, whole_towers=True)  # Mistral's own format: see planner/model/families/multimodal.py
    return model


def read_json(path: Path, most: int) -> dict[str, Any]:
    """Raises ModelError for what is no JSON object, too large or too deep."""
    try:
        raw = json.loads(read_named(path, most))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: no valid JSON: {error}", hint="Is the file complete?") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: an object with keys and values is needed")
    return raw


def read_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of the folder's safetensors files, by their headers; empty where a file of the index is missing."""
    index = folder / INDEX
    if index.exists():
        files = {folder / str(name) for name in _weight_map(index).values()}
    else:
        files = {folder / "model.safetensors"}
    if not all(file.exists() for file in files):
        return {}
    return {name: stored for file in sorted(files) for name, stored in read_safetensors(file).items()}


def _weight_map(index: Path) -> dict[str, Any]:
    weights = read_json(index, LARGEST_CONFIG).get("weight_map")
    if not isinstance(weights, dict) or any("/" in str(file) for file in weights.values()):
        raise ModelError(f"{index}: weight_map is missing or names files outside of its folder")
    return weights


def _indexed_bytes(folder: Path) -> int | None:
    """The total that the index states, where the files themselves are not here."""
    index = folder / INDEX
    if not index.exists():
        return None
    metadata = read_json(index, LARGEST_CONFIG).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The header: https://huggingface.co/docs/safetensors#format. Raises ModelError when it is damaged."""
    try:
        with open_named(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > LARGEST_HEADER:
                raise ModelError(f"{path}: a header of {size} bytes; the file is damaged")
            header = json.loads(file.read(size))
        return {name: _stored(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except (struct.error, ValueError, RecursionError, AttributeError) as error:
        raise ModelError(f"{path}: no safetensors header; the file is damaged or not complete") from error


def _stored(path: Path, name: str, entry: Any) -> Stored:
    from llmfleet.planner.model.checkpoint import ELEMENT, Stored

    dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
    if dtype not in ELEMENT or not isinstance(shape, list) or any(not isinstance(n, int) or n < 0 for n in shape):
        raise ModelError(f"{path}: tensor {name} has the dtype {dtype!r} and shape {shape!r}, which are not understood")
    return Stored(dtype, tuple(shape))
