"""What commands cost beside a bare Python, in one run: `make bench`.

Processor time of the whole process, the best of some runs in turn: on a quiet machine that is what one waits for, and
on a busy one it stays the same, where time on the wall favours a command that is done before it has to wait.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory import weights
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.types import EngineOptions, Shape

ROUNDS = 9
BIN = Path(sys.executable).parent
LLMFLEET = str(BIN / "llmfleet")
EXAMPLE = Path(__file__).parents[1] / "inventory.example.yaml"
BARE = "python -c pass"
COMMANDS: dict[str, tuple[Sequence[str], float | None]] = {
    BARE: ((sys.executable, "-c", "pass"), None),
    "llmfleet --help": ((LLMFLEET, "--help"), 10),
    "llmfleet estimate": ((LLMFLEET, "estimate", "--model", "Qwen/Qwen3-8B", "--gpu", "L4"), 25),
    "llmfleet estimate --json": ((LLMFLEET, "estimate", "--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--json"), 25),
    "llmfleet plan inventory.example.yaml": ((LLMFLEET, "plan", str(EXAMPLE), "--out"), 50),
}
MODELS = (
    ("Qwen/Qwen3-8B", Shape()),
    ("Qwen/Qwen2.5-72B-Instruct", Shape(4)),
    ("deepseek-ai/DeepSeek-V3", Shape(8, 2)),
    ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4", Shape(8)),
)
ESTIMATE_MS = 5


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        times = {name: best(times) for name, times in rounds(Path(folder) / "plan.json").items()}
    bare, missed = times[BARE], 0
    print(f"| command | processor time | of `{BARE}` | at most |\n|---|---|---|---|")
    for name, (_, limit) in COMMANDS.items():
        ratio = times[name] / bare
        missed += limit is not None and ratio > limit
        print(f"| `{name}` | {times[name] * 1e3:.0f} ms | {ratio:.1f} × | {f'{limit:g} ×' if limit else ''} |")
    print("\n| one estimate in the library | first | again | at most |\n|---|---|---|---|")
    for name, shape in MODELS:
        first, again = library(name, shape)
        missed += first * 1e3 > ESTIMATE_MS
        label = f"{name}, TP{shape.tp} PP{shape.pp}"
        print(f"| {label} | {first * 1e3:.2f} ms | {again * 1e3:.2f} ms | {ESTIMATE_MS} ms |")
    return 1 if missed else 0


def rounds(plan: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, (command, _) in COMMANDS.items():
            argv = (*command, str(plan)) if command[-1] == "--out" else command
            found[name].append(processor_s(argv))
    return found


def processor_s(argv: Sequence[str]) -> float:
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def library(name: str, shape: Shape) -> tuple[float, float]:
    """With nothing kept of an earlier estimate, and with it. The model's facts are there."""
    model, gpu, options = catalog().model(name), catalog().gpu("H100"), EngineOptions()
    if model is None:
        raise SystemExit(f"{name} is not in the catalogue")
    first, again = [], []
    for _ in range(ROUNDS):
        weights._rank_weights.cache_clear()
        first.append(timed(lambda: estimate(model, gpu, shape, options)))
        again.append(timed(lambda: estimate(model, gpu, shape, options)))
    return best(first), best(again)


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def best(times: Sequence[float]) -> float:
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
