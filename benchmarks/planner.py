"""What planning costs: large fleets, the example as a whole process, pipelines over unequal nodes, a known answer.

    python benchmarks/planner.py            all of it, in two minutes or three
    python benchmarks/planner.py fleets     only the large fleets

Seconds are of this machine as it is now; ratios are within one run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLI = (sys.executable, "-m", "llmfleet.cli.app")
GPUS = (
    "A800-80G", "H20-96G", "V100-32G", "A100-80G", "H100-80G", "L40S", "A100-40G", "L4", "RTX-4090", "H200", "A10",
    "T4",
)  # fmt: skip
MODELS = (
    "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-14B-Instruct", "Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-72B-Instruct",
    "Qwen/Qwen1.5-72B-Chat", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "Qwen/Qwen3-14B",
)  # fmt: skip
REPEATS = 3


@dataclass(frozen=True)
class Run:
    """A process: seconds of wall clock and processor, its most memory, what it wrote."""

    seconds: float
    cpu: float
    mib: float
    output: str


def run(argv: Sequence[str]) -> Run:
    """In a process of its own below another, so that its memory is not mixed with others'."""
    inner = (
        "import resource,subprocess,sys,time\n"
        "t=time.perf_counter()\n"
        "done=subprocess.run(sys.argv[1:],capture_output=True,text=True)\n"
        "s=time.perf_counter()-t\n"
        "u=resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(s,u.ru_utime+u.ru_stime,u.ru_maxrss/1024,done.returncode,file=sys.stderr)\n"
        "sys.stdout.write(done.stdout)\n"
        "sys.stderr.write(done.stderr[-2000:])\n"
    )
    done = subprocess.run([sys.executable, "-c", inner, *argv], capture_output=True, text=True, check=True)
    figures, _, rest = done.stderr.partition("\n")
    seconds, cpu, mib, code = figures.split()
    if code != "0":
        raise SystemExit(f"{' '.join(argv)} failed:\n{rest}")
    return Run(float(seconds), float(cpu), float(mib), done.stdout)


def fleet(nodes: int, load: float = 1.0) -> str:
    """So many nodes of 8 GPUs in 12 classes, 16 services that generate and 4 that embed, traffic in proportion."""
    lines = ["cluster: big", "nodes:", "  - {name: head, host: 10.255.0.1}"]
    for i, gpu in enumerate(GPUS):
        count = nodes // len(GPUS) + (i < nodes % len(GPUS))
        names = f'"c{i}-[1-{count}]", host: "n{i}-[1-{count}].example"'
        lines.append(f"  - {{name: {names}, gpus: 8 x {gpu}, nic: 25Gb/s}}")
    lines.append("services:")
    for s in range(16):
        traffic = f"{{rate: {load * nodes * 0.02 * (1 + s % 5):.4g}, input: {{mean: {500 * (1 + s % 7)}}}, "
        traffic += f"output: {{mean: {100 * (1 + s % 4)}}}}}"
        long = ", long_context: {over: 8k}" if s % 4 == 0 else ""
        slo = "slo: {ttft: 3s, tpot: 100ms}"
        lines.append(f"  - {{name: s{s}, model: {MODELS[s % 8]}, {slo}, traffic: {traffic}{long}}}")
    for s in range(4):
        traffic = f"{{rate: {nodes * 0.2:.4g}, input: {{mean: 400}}}}"
        lines.append(f"  - {{name: e{s}, model: BAAI/bge-m3, task: embed, traffic: {traffic}}}")
    return "\n".join(lines) + "\n"


def fleets(folder: Path) -> Iterator[str]:
    times = {}
    for nodes in (120, 10_000):
        path = folder / f"{nodes}.yaml"
        path.write_text(fleet(nodes))
        best = min((run([*CLI, "plan", str(path), "--quiet"]) for _ in range(REPEATS)), key=lambda r: r.seconds)
        plan = json.loads((folder / ".llmfleet" / "plan.json").read_text())
        times[nodes] = best
        loads = [o for o in plan["objectives"] if o["name"] == "load"]
        gap = "" if not loads or loads[0]["gap"] is None else f", load proven to {100 * loads[0]['gap']:.2g} %"
        yield (
            f"{nodes:>6} nodes, 12 classes, 20 services: {best.seconds:.1f} s ({best.cpu:.1f} s of processor), "
            f"{best.mib:.0f} MiB, {len(plan['instances'])} instances{gap}"
        )
    yield f"10 000 nodes take {times[10_000].seconds / times[120].seconds:.2f} times as long as 10 a class (target 2)"


def sizes(folder: Path) -> Iterator[str]:
    """Fleets in between, and some that are far too small for their traffic."""
    for nodes, load in ((400, 1), (1_000, 1), (3_000, 1), (120, 20), (10_000, 20)):
        path = folder / f"{nodes}-{load}.yaml"
        path.write_text(fleet(nodes, load))
        done = run([*CLI, "plan", str(path), "--quiet"])
        yield f"{nodes:>6} nodes, {load} times the traffic: {done.seconds:.1f} s ({done.cpu:.1f} s of processor)"


def example(folder: Path) -> Iterator[str]:
    copy = folder / "example.yaml"
    copy.write_text((ROOT / "inventory.example.yaml").read_text())
    bare = min(run([sys.executable, "-c", "pass"]).seconds for _ in range(2 * REPEATS))
    plan = min(run([*CLI, "plan", str(copy), "--quiet"]).seconds for _ in range(REPEATS))
    yield f"inventory.example.yaml: {plan:.2f} s as a whole process, {plan / bare:.0f} times a bare python (target 50)"


def pipelines(folder: Path) -> Iterator[str]:
    for name in ("single24", "hetero42"):
        copy = folder / f"{name}.yaml"
        copy.write_text((ROOT / "examples" / "pipelines" / f"{name}.yaml").read_text())
        done = run([*CLI, "plan", str(copy), "--json"])
        made = json.loads(done.output)["instances"]
        rate = sum(i["expected"]["output_tokens_per_s"] for i in made)
        stages = ", ".join(f"{i['pp']} stages on {len(i['nodes'])} nodes" for i in made)
        took = f"{done.seconds:.1f} s ({done.cpu:.1f} s of processor; target 60)"
        yield f"{name}: {took}, {stages}; expects {rate:.0f} output tokens/s"


def rent(folder: Path) -> Iterator[str]:
    for name in ("inventory.yaml", "calibration.yaml"):
        (folder / name).write_text((ROOT / "examples" / "rent" / name).read_text())
    plan = json.loads(run([*CLI, "plan", str(folder / "inventory.yaml"), "--json"]).output)
    kinds = [i["nodes"][0].split("-")[0] for i in plan["instances"]]
    found = ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))
    yield f"Melange's example: {found} for {plan['price_per_hour']}/h (published: 3 x A10G, 1 x A100 for 6.7)"


PARTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "fleets": fleets, "sizes": sizes, "example": example, "pipelines": pipelines, "rent": rent,
}  # fmt: skip


def main(wanted: Sequence[str]) -> None:
    unknown = [w for w in wanted if w not in PARTS]
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    started = time.perf_counter()
    for name in wanted or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for line in PARTS[name](Path(folder)):
                print(line, flush=True)
    print(f"in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
