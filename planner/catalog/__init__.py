"""The catalogue: accelerators, engine releases, quantization methods and models, from the YAML files of this folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from llmfleet.planner.catalog import names, reading
from llmfleet.planner.catalog.types import Efficiency, EngineRelease, Gpu, Quantization
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.model.reader import model_from_config
from llmfleet.planner.model.types import Model


class Catalog:
    """What is known without network. `own`: a user's catalogue file as an object; its entries add or override."""

    def __init__(self, own: Mapping[str, Any] | None = None, where: str = "catalogue") -> None:
        self._own = dict(own or {})
        self._where = where
        unknown = set(self._own) - {"gpus", "models", "releases", "quantization", "sources"}
        if unknown:
            raise InputError(f"{where}: {min(unknown)} is no section; known are gpus, models, releases, quantization")
        self._models: dict[str, Model] = {}

    def extended(self, text: str, where: str) -> Catalog:
        """With a user's own YAML. Raises InputError."""
        return Catalog(reading.load(text, where), where)

    def with_gpus(self, gpus: Iterable[Gpu]) -> Catalog:
        """With these in place of those of the same names."""
        made = Catalog(self._own, self._where)
        made._gpus = {**self._gpus, **{gpu.name: gpu for gpu in gpus}}
        return made

    @cached_property
    def _gpus(self) -> dict[str, Gpu]:
        entries = {**reading.packaged("gpus.yaml")["gpus"], **self._section("gpus")}
        return {name: reading.entry(self._where, name, raw, reading.gpu) for name, raw in entries.items()}

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(self._gpus.values())

    def gpu(self, name: str) -> Gpu:
        """By catalogue name or as drivers and people write it; "CPU-4G" is a CPU slot. Raises UnknownNameError."""
        slot = names.CPU_SLOT.match(name.strip())
        if slot:
            usual = cpu_slot(float(slot[1]))
            return self._gpus.get(usual.name, usual)
        found = (
            self._gpus.get(name)
            or self._gpu_keys[0].get(names.key(name, boards=True))
            or self._by_words(names.key(name))
        )
        if found is None:
            near = names.nearest(name, [*self._gpus, *(alias for gpu in self.gpus for alias in gpu.aliases)])
            near = list(dict.fromkeys((self._by_words(names.key(n)) or self._gpus[n]).name for n in near))
            raise UnknownNameError("GPU", name, near, hint="llmfleet estimate --list-gpus names them all.")
        return found

    def _by_words(self, words: frozenset[str]) -> Gpu | None:
        if not words:
            return None
        keys = self._gpu_keys[1]
        if words in keys:
            return keys[words]
        bare = keys.get(names.without_memory(words))  # "RTX 3090 24GB": right if that is what it has
        size = f"{round(bare.memory_mib / 1024)}g" if bare else ""
        return bare if names.memory_words(words) == {size} else None

    @cached_property
    def _gpu_keys(self) -> tuple[dict[frozenset[str], Gpu], dict[frozenset[str], Gpu]]:
        """By all words of a name, and by those that tell most cards apart; the first card of a name has it."""
        full: dict[frozenset[str], Gpu] = {}
        short: dict[frozenset[str], Gpu] = {}
        for gpu in self.gpus:
            for name in (gpu.name, *gpu.aliases):
                full.setdefault(names.key(name, boards=True), gpu)
                short.setdefault(names.key(name), gpu)
        return full, short

    @cached_property
    def releases(self) -> tuple[EngineRelease, ...]:
        entries = [*self._section_list("releases"), *reading.packaged("engines.yaml")["releases"]]
        return tuple(
            reading.entry(self._where, f"releases[{i}]", raw, reading.release) for i, raw in enumerate(entries)
        )

    @cached_property
    def _quantizations(self) -> dict[str, Quantization]:
        entries = {**reading.packaged("quantization.yaml"), **self._section("quantization")}
        made = {}
        for name, raw in entries.items():
            made[name] = reading.entry(self._where, name, raw, reading.quantization)
            made.update({also: replace(made[name], name=also) for also in raw.get("also", ())})
        return made

    def quantization(self, name: str) -> Quantization:
        """Raises UnknownNameError."""
        found = self._quantizations.get(name.lower())
        if found is None:
            known = [*self._quantizations]
            raise UnknownNameError("precision", name, names.nearest(name, known), known=known)
        return found

    def canonical(self, name: str) -> str:
        """What an alias stands for, int4 for gptq-int4; names that nobody knows as they are."""
        return self._aliases.get(name.lower(), name)

    @cached_property
    def _aliases(self) -> dict[str, str]:
        entries = {**reading.packaged("quantization.yaml"), **self._section("quantization")}
        return {also: name for name, raw in entries.items() for also in raw.get("also", ())}

    @property
    def quantizations(self) -> tuple[Quantization, ...]:
        return tuple(self._quantizations.values())

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of all models. Reads every model file; `model` reads one."""
        folder = reading.FOLDER / "models"
        ours = [name for file in sorted(folder.glob("*.yaml")) for name in _model_file(file.name)]
        return tuple(dict.fromkeys((*ours, *self._section("models"))))

    def model(self, model_id: str) -> Model | None:
        """None where the catalogue does not have it."""
        if model_id not in self._models:
            facts = self._facts(model_id)
            if facts is None:
                return None
            self._models[model_id] = model_from_config(
                {"architectures": [facts["architecture"]], **facts["config"]},
                name=model_id,
                task=facts["task"],
                where=model_id,
            )
        return self._models[model_id]

    def _facts(self, model_id: str) -> dict[str, Any] | None:
        raw = self._model_entry(model_id)
        if raw is None:
            return None
        return reading.entry(self._where, model_id, raw, lambda name, body: self._inherited(body, {name}))

    def _model_entry(self, model_id: str) -> Any:
        own = self._section("models").get(model_id)
        return _packaged_model(model_id) if own is None else own

    def _inherited(self, body: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
        """An entry with what it takes over from the one it is `like`; nothing is like itself, by whatever way."""
        base: dict[str, Any] = {}
        if "like" in body:
            other = None if body["like"] in seen else self._model_entry(str(body["like"]))
            if not isinstance(other, dict):
                raise ValueError(f"no other entry {body['like']} to be like")
            base = self._inherited(other, seen | {str(body["like"])})
        return {
            "task": body.get("task") or base.get("task", "generate"),
            "architecture": body.get("architecture") or base["architecture"],
            "config": {**base.get("config", {}), **(body.get("config") or {})},
        }

    def _section(self, name: str) -> dict[str, Any]:
        section = self._own.get(name) or {}
        if not isinstance(section, dict):
            raise InputError(f"{self._where}: {name}: keys with values are needed")
        return section

    def _section_list(self, name: str) -> list[Any]:
        section = self._own.get(name) or []
        if not isinstance(section, list):
            raise InputError(f"{self._where}: {name}: a list is needed")
        return section


@lru_cache(maxsize=512)
def _packaged_model(model_id: str) -> Any:
    """One entry of our files, without reading the hundreds around it."""
    text = _model_text(f"{model_id.partition('/')[0]}.yaml")
    start = text.find(f"\n{model_id}:\n")
    if start < 0:
        return None
    end = next((m.start() for m in re.finditer(r"\n(?=\S)", text[start + 1 :])), len(text))
    return reading.load(text[start : start + 1 + end], model_id).get(model_id)


@lru_cache(maxsize=64)
def _model_text(name: str) -> str:
    return reading.packaged_text(f"models/{name}") if "/" not in name and "\\" not in name else ""


@lru_cache(maxsize=64)
def _model_file(name: str) -> dict[str, Any]:
    return reading.packaged(f"models/{name}") if "/" not in name and "\\" not in name else {}


def cpu_slot(gib: float) -> Gpu:
    """A share of a machine's processors and memory that runs an engine. Speeds: one server core's, to be calibrated."""
    size = int(gib * 1024)
    if not 0 < size < 1 << 26:
        raise InputError(f"a CPU slot of {gib:g} GiB is not possible")
    return Gpu(
        name=f"CPU-{gib:g}G", vendor="cpu", arch="cpu", memory_mib=size, visible_gib=gib,
        bandwidth_gbs=15.0, tflops={"fp32": 0.1, "bf16": 0.1, "fp16": 0.05, "int8": 0.2}, pcie_gen=0,
        efficiency=Efficiency(0.75, 0.5, 3.0),
    )  # fmt: skip


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    return Catalog()
