"""GPUs: as many, of the kind, as free and with a driver as new as the plan takes for granted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from llmfleet.launch.commands.devices import vendor
from llmfleet.launch.doctor.result import Check, CheckResult
from llmfleet.launch.doctor.software import cuda_needed
from llmfleet.launch.doctor.view import View
from llmfleet.launch.nodes.facts import GpuUser, NodeFacts
from llmfleet.launch.nodes.gpu_tools import GpuFacts
from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import UnknownNameError
from llmfleet.planner.inventory.gpus import cpu_slot_gib, parse_gpus
from llmfleet.planner.plan import Instance

SHARE_FREE = 0.9  # of a GPU's planned memory must be free when nothing of ours runs on it
IDLE_MIB = 1024  # a display or a monitoring agent takes less
# Oldest Linux driver for each CUDA, with minor version compatibility: CUDA Toolkit release notes, table 2
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
TOOLS = {"nvidia": "nvidia-smi", "amd": "rocm-smi", "ascend": "npu-smi", "intel": "hl-smi"}

GPUS = Check("gpus", "the plan cuts up exactly the GPUs that the inventory names")
GPU_MEMORY = Check("gpu memory", "an engine that finds less memory than planned dies when it starts")
COMPUTE_MODE = Check("compute mode", "the driver refuses processes that a GPU's compute mode does not allow")
DRIVER = Check("driver", "an engine built for a newer CUDA than the driver runs sees no GPU")


def gpus(view: View) -> CheckResult | None:
    """Count and name. Of other makers' cards only a warning: their tools may be hard to find, and count partitions."""
    if not has_gpus(view):
        return None
    spec, facts = parse_gpus(view.node.gpus or ""), view.facts
    say = GPUS.fail if vendor(view.node) == "nvidia" else GPUS.warn
    if facts.gpu_error and not facts.gpus:
        return say(f"its GPUs cannot be read: {facts.gpu_error}", f"Does {_tool(view)} work on the node?")
    missing = sorted({*range(spec.count)} - {g.index for g in facts.gpus} - set(view.node.faulty))
    if missing or len(facts.gpus) > spec.count:
        which = f" and no GPU {', '.join(map(str, missing))}" if missing and facts.gpus else ""
        return say(
            f"the inventory says {view.node.gpus}, the node has {len(facts.gpus)}{which}",
            "Mend the card or the inventory (`gpus:`, or `faulty: [index]` for a dead one), then plan again.",
        )
    wrong = sorted({g.name for g in facts.gpus if not same_gpu(g.name, spec.name)})
    if wrong:
        found = f"the inventory says {spec.name}, the driver says {', '.join(wrong)}"
        return say(found, "Mend `gpus:` and plan again.")
    return GPUS.ok(f"{len(facts.gpus)} x {facts.gpus[0].name}" if facts.gpus else "all of them faulty, as listed")


def gpu_memory(view: View) -> CheckResult | None:
    if not has_gpus(view) or not view.facts.gpus:
        return None
    ours = any(p.alive and p.kind in ("engine", "ray-worker", "rank") for p in view.facts.processes)
    if ours:  # what is used may be an instance's own, its pipeline's stage, or that of one that is to be stopped
        return GPU_MEMORY.ok("free, or ours")
    busy = list(_busy(view))
    if busy:
        return GPU_MEMORY.fail(
            "; ".join(busy), "Stop what holds it, or take the GPU out with `faulty:` and plan again."
        )
    strangers = [g for g in view.facts.gpus if _stranger_mib(view, g) > IDLE_MIB]
    if strangers and not view.instances:
        return GPU_MEMORY.warn(
            "; ".join(f"GPU {g.index} has {g.used_mib} MiB in use{_held_by(view.facts, g)}" for g in strangers),
            "A plan takes the whole of every GPU that is not listed in `faulty:`.",
        )
    return GPU_MEMORY.ok("free")


def compute_mode(view: View) -> CheckResult | None:
    """Of NVIDIA's. Of a card that allows everything, or cannot be asked, there is nothing to say."""
    modes = {g.index: g.compute_mode for g in view.facts.gpus if g.index not in view.node.faulty}
    users = {g: [i for i in view.instances if g in i.gpus[view.node.name]] for g in modes}
    shut = [g for g, mode in modes.items() if mode == "Prohibited" and (users[g] or not view.instances)]
    single = [g for g, mode in modes.items() if mode.startswith("Exclusive") and users[g] and not _has_mps(view)]
    shared = [g for g in single if len(users[g]) > 1]
    if shut or shared:
        return COMPUTE_MODE.fail("; ".join([*_shut(shut), *_shared(shared, users)]), _default_mode([*shut, *shared]))
    spread = [g for g in single if any(len(i.gpus[view.node.name]) > 1 for i in users[g])]
    if spread:
        what = "one process each, and the processes of an instance on several GPUs reach into each other's"
        return COMPUTE_MODE.warn(f"GPUs {_numbered(spread)} allow {what}", _default_mode(spread))
    return COMPUTE_MODE.ok("one process a GPU, which is enough") if single else None


def driver(view: View) -> CheckResult | None:
    """Of NVIDIA's, against the CUDA that the engine was built with."""
    if not has_gpus(view) or view.facts.vendor != "nvidia" or not view.facts.gpus:
        return None
    version = view.facts.gpus[0].driver
    cuda = cuda_needed(view)
    oldest = OLDEST_DRIVER.get(cuda or 0)
    if oldest is None or _numbers(version) >= oldest:
        return DRIVER.ok(f"{version}{f', enough for CUDA {cuda}' if oldest else ''}")
    say = DRIVER.warn if view.node.runtime.env.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1" else DRIVER.fail
    return say(
        f"the driver is {version}, the engine's CUDA {cuda} needs {oldest[0]}.{oldest[1]} or newer",
        f"Update the driver, or install the engine's build for an older CUDA; data centre GPUs can also do with "
        f"`runtime: {{env: {{VLLM_ENABLE_CUDA_COMPATIBILITY: 1}}}}` and the package cuda-compat-{cuda}.",
    )


def has_gpus(view: View) -> bool:
    return view.node.gpus is not None and cpu_slot_gib(parse_gpus(view.node.gpus).name) is None


def same_gpu(reported: str, planned: str) -> bool:
    """Whether a driver's name is the inventory's. A name the catalogue does not know is taken at its word."""
    try:
        return catalog().gpu(reported).name == catalog().gpu(planned).name
    except UnknownNameError:
        return reported == planned or planned.lower() in reported.lower()


def _busy(view: View) -> Iterator[str]:
    for gpu in view.facts.gpus:
        here = [i for i in view.instances if gpu.index in i.gpus[view.node.name]]
        planned = sum((i.budget.total_gib - i.budget.slack_gib) * 1024 for i in here)
        free = gpu.memory_mib - gpu.used_mib
        if free < SHARE_FREE * planned:
            names, verb = " and ".join(i.id for i in here), "needs" if len(here) == 1 else "need"
            yield f"GPU {gpu.index} has {free} MiB free, {names} {verb} {planned:.0f}{_held_by(view.facts, gpu)}"


def _has_mps(view: View) -> bool:
    """NVIDIA's server that runs the kernels of many processes: an exclusive GPU is its own."""
    seen = any((u.name or "").startswith("nvidia-cuda-mps") for u in view.facts.gpu_users)
    return seen or "CUDA_MPS_PIPE_DIRECTORY" in view.node.runtime.env


def _shut(gpus: Sequence[int]) -> Iterator[str]:
    if gpus:
        yield f"GPU {_numbered(gpus)} allows no process (Prohibited)"


def _shared(gpus: Sequence[int], users: Mapping[int, Sequence[Instance]]) -> Iterator[str]:
    for gpu in gpus:
        yield f"GPU {gpu} allows one process (exclusive), the plan puts {' and '.join(i.id for i in users[gpu])} on it"


def _default_mode(gpus: Sequence[int]) -> str:
    return (
        f"As root on the node: nvidia-smi -c 0 -i {','.join(map(str, gpus))}. It lasts until a reboot. Where MPS runs "
        "there, name its folder instead: `runtime: {env: {CUDA_MPS_PIPE_DIRECTORY: …}}`."
    )


def _numbered(gpus: Sequence[int]) -> str:
    return ", ".join(map(str, gpus))


def _stranger_mib(view: View, gpu: GpuFacts) -> int:
    ours = sum(u.mib for u in _users(view.facts, gpu) if (u.marker or "").startswith(f"{view.folder.root}/"))
    return gpu.used_mib - ours


def _held_by(facts: NodeFacts, gpu: GpuFacts) -> str:
    users = _users(facts, gpu)
    shown = (f"{u.name or 'process'} {u.pid}{f' of {u.user}' if u.user else ''} ({u.mib} MiB)" for u in users)
    return f", held by {', '.join(shown)}" if users else ""


def _users(facts: NodeFacts, gpu: GpuFacts) -> list[GpuUser]:
    return [u for u in facts.gpu_users if gpu.uuid and u.gpu == gpu.uuid]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"[0-9]+", version)[:2])


def _tool(view: View) -> str:
    return TOOLS.get(vendor(view.node), "nvidia-smi")
