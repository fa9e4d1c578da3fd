"""The machine: its Python, clock, memory, shared memory and limits, and what starts things there after a reboot."""

from __future__ import annotations

import re

from llmfleet.launch.commands.ray import OBJECT_STORE_BYTES
from llmfleet.launch.doctor.result import Check, CheckResult
from llmfleet.launch.doctor.view import View
from llmfleet.planner.inventory.gpus import cpu_slot_gib, parse_gpus

OLDEST_PYTHON = (3, 7)
SKEW_S = 2.0
WANTED_FILES, FEWEST_FILES = 16_384, 1024  # a large fleet's router wants the former; below the latter Ray fails
MQ_BYTES = 10 * (16 << 20)  # vLLM's ring of ten chunks of VLLM_MQ_MAX_CHUNK_BYTES_MB (envs.py, shm_broadcast.py)

PYTHON = Check("python", "llmfleet's scripts on the node run with it")
CLOCK = Check("clock", "log lines of several nodes are put in order by their clocks, and certificates depend on them")
MEMORY = Check("memory", "a CPU slot is a share of the machine's memory")
SHM = Check("shared memory", "the GPUs of an instance, and Ray, exchange data through /dev/shm")
FILES = Check("open files", "router, engines and Ray hold a file for each connection")
AT_BOOT = Check("at boot", "units of systemd start the node's engines again after a reboot")


def python(view: View) -> CheckResult:
    found = tuple(int(n) for n in re.findall(r"[0-9]+", view.facts.python)[:2])
    if found < OLDEST_PYTHON:
        return PYTHON.fail(
            f"{view.node.runtime.python} is Python {view.facts.python}, 3.7 is the oldest that will do",
            "Set `runtime: {python: …}` to a newer one.",
        )
    return PYTHON.ok(f"{view.facts.python}, {view.facts.machine}")


def clock(view: View) -> CheckResult:
    skew = view.facts.clock_skew_s
    if abs(skew) <= SKEW_S:
        return CLOCK.ok("as this machine's")
    way = "ahead of" if skew > 0 else "behind"
    return CLOCK.warn(
        f"its clock is {abs(skew):.0f} s {way} this machine's",
        "Which of the two is wrong? `timedatectl` says whether a machine keeps time with a server.",
    )


def memory(view: View) -> CheckResult | None:
    if view.node.gpus is None:
        return None
    slots = parse_gpus(view.node.gpus)
    size = cpu_slot_gib(slots.name)
    if size is None:
        return None
    wanted, total = slots.count * size, view.facts.memory_total / (1 << 30)
    if wanted > total:
        return MEMORY.warn(
            f"the inventory says {view.node.gpus}, the node has {total:.1f} GiB in all",
            "Mend `gpus:` and plan again: an engine that runs out of memory is killed.",
        )
    return MEMORY.ok(f"{total:.1f} GiB for {view.node.gpus}")


def shared_memory(view: View) -> CheckResult | None:
    """Rings of vLLM instances with several GPUs here; Ray's object store where it runs."""
    if view.node.runtime.kind != "process" or view.facts.shm_free is None:
        return None  # containers share the host's: see IPC in commands/container.py
    rings = sum(i.engine == "vllm" and len(i.gpus[view.node.name]) > 1 for i in view.instances)
    wanted = rings * MQ_BYTES + (OBJECT_STORE_BYTES if view.needs_ray else 0)
    free = view.facts.shm_free
    if ours_run(view) or wanted <= free:
        return SHM.ok(f"{_mib(free)} MiB free in /dev/shm") if wanted else None
    return SHM.fail(
        f"{_mib(free)} MiB are free in /dev/shm, {_mib(wanted)} MiB are needed",
        "Enlarge it: mount -o remount,size=8G /dev/shm, or --shm-size where the node is a container.",
    )


def open_files(view: View) -> CheckResult | None:
    if view.facts.nofile is None:
        return None
    hard = view.facts.nofile[1]
    if 0 <= hard < WANTED_FILES:
        say = FILES.fail if hard < FEWEST_FILES else FILES.warn
        return say(
            f"a process may open {hard} files, {WANTED_FILES} are wanted",
            f"In /etc/security/limits.conf: {view.facts.user} - nofile {WANTED_FILES}. It holds from the next login.",
        )
    return FILES.ok("unlimited" if hard < 0 else str(hard))


def at_boot(view: View) -> CheckResult | None:
    """Only where the inventory asks systemd for something."""
    boot, user, runtime = view.facts.boot, view.facts.user, view.node.runtime
    if not runtime.uses_systemd or boot is None:
        return None
    kept = runtime.supervisor == "systemd"
    key, without = ("supervisor: systemd", "supervisor: detached") if kept else ("at_boot", "at_boot: false")
    if not boot.systemd or not boot.systemctl:
        return AT_BOOT.fail(
            f"`{key}` is set, and " + ("systemd is not its process 1" if boot.systemctl else "it has no systemctl"),
            f"Set `runtime: {{{without}}}` on the node: `llmfleet up` starts after a reboot what is missing.",
        )
    if view.facts.uid and not boot.linger:
        return AT_BOOT.fail(
            f"`{key}` is set, and units of {user} start when {user} logs in, not at boot"
            + (", and end with the last session" if kept else ""),
            f"On the node: sudo loginctl enable-linger {user}",
        )
    return AT_BOOT.ok("by systemd" if not view.facts.uid else f"by systemd, for {user}")


def ours_run(view: View) -> bool:
    return any(p.alive for p in view.facts.processes)


def _mib(size: int) -> int:
    return size >> 20
