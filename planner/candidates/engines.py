"""Which engine release, in which precision, a node class can run a service with, and why not the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog.types import EngineRelease, Gpu, Quantization
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.model.gguf import GGUF_TYPES
from llmfleet.planner.model.types import Model
from llmfleet.planner.plan import EngineName
from llmfleet.planner.speed.hardware import compute_dtype

if TYPE_CHECKING:  # an estimate has neither inventory nor nodes, and pydantic takes its time
    from llmfleet.planner.candidates.node_classes import NodeClass
    from llmfleet.planner.inventory.model import Service

SIXTEEN_BIT = ("bf16", "fp16", "fp32")
# When nobody says which GGUF file there is: the best that usually fits first.
GGUF_DEFAULT = ("q8_0", "q4_k_m")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """`rank`: place of the precision in the service's preferences. `exception`: not the engine it would rather use."""

    release: EngineRelease
    version: str
    precision: str
    dtype: str
    quantization: str | None
    rank: int
    exception: bool
    why: str

    @property
    def engine(self) -> EngineName:
        return self.release.engine


def engine_choices(
    service: Service, model: Model, node_class: NodeClass, catalog: Catalog
) -> tuple[list[EngineChoice], list[str]]:
    """Choices best first, and one reason for each engine and precision that is out."""
    choices: list[EngineChoice] = []
    refused: list[str] = []
    wanted = _engines(service)
    if "vllm" not in wanted and service.engine is None:
        refused += filter(None, [_release("vllm", service, node_class, catalog)[2]])
    for engine in wanted:
        release, version, problem = _release(engine, service, node_class, catalog)
        if release is None or _needs_gguf(engine, service):
            refused.append(
                problem or f"llama.cpp needs a GGUF precision, and {', '.join(service.precision)} is what is allowed"
            )
            continue
        for rank, precision in enumerate(_precisions(service, model, engine, catalog)):
            problem = precision_problem(precision, release, node_class.gpu, catalog)
            if problem:
                refused.append(problem)
            else:
                choices.append(
                    _choice(
                        release,
                        version,
                        precision,
                        rank if service.precision else 0,
                        node_class.gpu,
                        engine != wanted[0],
                        refused,
                        model,
                    )
                )
        if choices:
            break  # the next engine is for what this one cannot do
    return choices, refused


def common_engine(
    service: Service, model: Model, classes: Sequence[NodeClass], catalog: Catalog
) -> list[tuple[list[NodeClass], EngineChoice]]:
    """For each vLLM release the classes that run it in one precision, where they are not those of a newer one already.

    A pipeline has one release and one precision on all its nodes: an old one where an old GPU takes part.
    """
    found: list[tuple[list[NodeClass], EngineChoice]] = []
    for release in (r for r in catalog.releases if r.engine == "vllm"):
        able = [c for c in classes if _suits(release, c.gpu, service, shared=True) and _installs(release, c)]
        for rank, precision in enumerate(_precisions(service, model, "vllm", catalog)):
            members = [c for c in able if not precision_problem(precision, release, c.gpu, catalog)]
            if members and not any(set(members) <= set(others) for others, _ in found):
                weakest = min(members, key=lambda c: c.gpu.compute_capability or (0, 0))
                version = next((v for c in members if (v := c.installed.get("vllm"))), release.version)
                choice = _choice(
                    release, version, precision, rank if service.precision else 0, weakest.gpu, False, [], model
                )
                found.append((members, choice))
    return found


def _installs(release: EngineRelease, node_class: NodeClass) -> bool:
    pinned = node_class.installed.get("vllm")
    return not node_class.installed or (pinned is not None and _numbers(pinned)[:2] == _numbers(release.version)[:2])


def precision_problem(precision: str, release: EngineRelease, gpu: Gpu, catalog: Catalog) -> str:
    """Why an engine release cannot run a precision on a GPU; empty when it can. Unknown precisions are told apart."""
    try:
        method = catalog.quantization(precision)
    except UnknownNameError as error:
        return error.message
    if (precision in GGUF_TYPES) != (release.engine == "llama.cpp") and precision not in SIXTEEN_BIT:
        other = "llama.cpp" if precision in GGUF_TYPES else "vLLM"
        return f"{precision} is a format of {other}, not of {label(release.engine)}"
    if problem := too_old(method, gpu):
        return problem
    if release.precisions and precision not in release.precisions:
        return f"{label(release.engine)} {release.version} does not run {precision} on {gpu.vendor} {gpu.name}"
    if precision in ("bf16", "fp16") and precision not in gpu.tflops and gpu.vendor != "cpu":
        return f"{gpu.name} has no {precision} arithmetic"
    return ""


def too_old(method: Quantization, gpu: Gpu) -> str:
    """Why a GPU is too old for a precision; empty when it is not."""
    least, capability = method.min_capability, gpu.compute_capability
    return f"{method.name} needs {_capability(least, gpu)}" if least and capability and capability < least else ""


def version_problem(version: tuple[int, ...], gpu: Gpu, catalog: Catalog) -> str:
    """Why that version of vLLM does not run on a GPU; empty when it may."""
    ours = [r for r in catalog.releases if r.engine == "vllm" and gpu.vendor in r.vendors]
    if not ours:
        return f"no vLLM release runs on {gpu.vendor} {gpu.name}"
    capability = gpu.compute_capability
    able = [r for r in ours if not capability or not r.min_capability or capability >= r.min_capability]
    if not able and capability:
        least = min(r.min_capability for r in ours if r.min_capability)
        return f"vLLM needs {_capability(least, gpu)}"
    newest = able[0]
    if newest is ours[0] or version <= _numbers(newest.version):
        return ""
    return f"vLLM {'.'.join(map(str, version))} does not run on {gpu.name}: {newest.version} is {newest.note}"


def label(engine: str) -> str:
    return "vLLM" if engine == "vllm" else engine


def is_gguf(service: Service) -> bool:
    names = (service.path, service.source, service.model)
    return any(name and name.lower().endswith(".gguf") for name in names)


def _engines(service: Service) -> tuple[EngineName, ...]:
    if service.engine:
        return (service.engine,)
    if is_gguf(service) or (service.precision and all(p in GGUF_TYPES for p in service.precision)):
        return ("llama.cpp",)
    return ("vllm", "llama.cpp")


def _needs_gguf(engine: EngineName, service: Service) -> bool:
    """Nobody has a GGUF file for a service whose allowed precisions are all of other formats."""
    known = is_gguf(service) or service.engine == engine or not service.precision
    return engine == "llama.cpp" and not known and not any(p in GGUF_TYPES for p in service.precision)


def _release(
    engine: EngineName, service: Service, node_class: NodeClass, catalog: Catalog
) -> tuple[EngineRelease | None, str, str]:
    """The newest release that suits, its version as installed, or why there is none."""
    installed = node_class.installed
    if installed and engine not in installed:
        return None, "", f"{label(engine)} is not installed: runtime.versions has {', '.join(sorted(installed))}"
    suitable = [r for r in catalog.releases if r.engine == engine and _suits(r, node_class.gpu, service)]
    if not suitable:
        return None, "", _no_release(engine, service, node_class.gpu, catalog)
    release, pinned = suitable[0], installed.get(engine)
    if pinned and release.max_capability and _numbers(pinned) > _numbers(release.version):
        return (
            None,
            "",
            f"{label(engine)} {pinned} is installed; {release.version} is {release.note or 'the last that runs'}",
        )
    return release, pinned or release.version, ""


def _suits(release: EngineRelease, gpu: Gpu, service: Service, *, shared: bool = False) -> bool:
    """`shared`: with older GPUs that no newer release runs on."""
    capability = gpu.compute_capability
    if gpu.vendor not in release.vendors or service.task not in release.tasks:
        return False
    low, high = release.min_capability, (shared and release.built_to) or release.max_capability
    if capability is None:
        return low is None
    return (low is None or capability >= low) and (high is None or capability <= high)


def _no_release(engine: EngineName, service: Service, gpu: Gpu, catalog: Catalog) -> str:
    ours = [r for r in catalog.releases if r.engine == engine and gpu.vendor in r.vendors]
    if not ours:
        return f"no {label(engine)} release runs on {gpu.vendor} {gpu.name}"
    tasks = {task for r in ours for task in r.tasks}
    if service.task not in tasks:
        return f"{label(engine)} does not serve {service.task}"
    least = min((r.min_capability for r in ours if r.min_capability), default=None)
    if least and gpu.compute_capability and gpu.compute_capability < least:
        return f"{label(engine)} needs {_capability(least, gpu)}"
    return f"no {label(engine)} release serves {service.task} on {gpu.name}"


def _precisions(service: Service, model: Model, engine: EngineName, catalog: Catalog) -> tuple[str, ...]:
    if service.precision:
        return tuple(dict.fromkeys(map(catalog.canonical, service.precision)))
    if engine == "llama.cpp":
        named = next(
            (
                t
                for t in GGUF_TYPES
                if is_gguf(service) and t in f"{service.path} {service.source} {service.model}".lower()
            ),
            None,
        )
        return (named,) if named else GGUF_DEFAULT
    if model.native_quantization:
        return (model.native_quantization,)
    return SIXTEEN_BIT


def _choice(
    release: EngineRelease,
    version: str,
    precision: str,
    rank: int,
    gpu: Gpu,
    exception: bool,
    refused: list[str],
    model: Model,
) -> EngineChoice:
    stored = precision not in SIXTEEN_BIT
    dtype = compute_dtype(gpu, precision if not stored else model.native_dtype)
    return EngineChoice(
        release=release,
        version=version,
        precision=precision,
        dtype=dtype,
        quantization=precision if stored else None,
        rank=rank,
        exception=exception,
        why="; ".join((*([release.note] if release.note else []), *refused)),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"[0-9]+", version)[:3])


def _capability(needed: tuple[int, int], gpu: Gpu) -> str:
    has = _dotted(gpu.compute_capability) if gpu.compute_capability else "none"
    return f"compute capability {_dotted(needed)}, {gpu.name} has {has}"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
