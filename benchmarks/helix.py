"""Placements of Llama-2-70B on Helix's two clusters, ours and Helix's own, scored in Helix's simulator (ASPLOS 2025).

    python benchmarks/helix.py HELIX [PYTHON] [CLUSTER …]

HELIX: a checkout of github.com/Thesys-lab/Helix-ASPLOS25 (Apache-2.0; nothing of it is here). PYTHON: one that has its
networkx 3.2, numpy 1.26 and matplotlib; Gurobi is not needed. CLUSTER: single24, hetero42 or both. Offline, prompts and
answers as long as in the Azure conversations, 60 seconds of simulated time to warm up and SECONDS (600) to count, as
Helix counts. A simulated second takes one or two of the processor; ours and Helix's run side by side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WARM_S, COUNTED_S = 60.0, 600.0
# By example of ours: Helix's folder for it, its cluster, how many machines of each of its kinds.
CLUSTERS: Mapping[str, tuple[str, str, Mapping[str, int]]] = {
    "single24": ("single_cluster", "cluster24.ini", {"A100": 4, "L4": 8, "T4": 12}),
    "hetero42": (
        "high_heterogeneity",
        "cluster42.ini",
        {"A100": 4, "V100": 6, "L4": 8, "L4x2": 4, "T4": 10, "T4x2": 6, "T4x4": 4},
    ),
}


def planned(name: str) -> tuple[float, dict[str, list[tuple[int, int]]]]:
    """Seconds of planning as a whole process, and by kind of machine the layers of each: the first, past the last."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"{name}.yaml")
        copy.write_text((ROOT / "examples" / "pipelines" / f"{name}.yaml").read_text())
        started = time.perf_counter()
        argv = [sys.executable, "-m", "llmfleet.cli.app", "plan", str(copy), "--no-write", "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        took = time.perf_counter() - started
    ranges: dict[str, list[tuple[int, int]]] = {}
    for instance in json.loads(done.stdout)["instances"]:
        for node, (first, end) in instance["layers"].items():
            ranges.setdefault(_kind(node), []).append((first, end))
    return took, ranges


def _kind(node: str) -> str:
    """t4x2-3 is one of Helix's T4x2."""
    return node.rsplit("-", 1)[0].upper().replace("X", "x")


def scored(helix: Path, python: str, request: Mapping[str, Any]) -> dict[str, float]:
    argv = [python, str(ROOT / "benchmarks" / "helix_score.py"), str(helix)]
    done = subprocess.run(argv, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"Helix's simulator failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compared(helix: Path, python: str, name: str) -> str:
    folder, cluster, machines = CLUSTERS[name]
    evaluation = helix.resolve() / "artifact_evaluation" / folder
    seconds = [WARM_S, float(os.environ.get("SECONDS", COUNTED_S))]
    common = {"evaluation": str(evaluation), "cluster": cluster, "machines": machines, "seconds": seconds}
    took, ranges = planned(name)
    requests = ({"ranges": ranges}, {"layout": str(evaluation / "layout_llama70b" / "ilp")})
    with ThreadPoolExecutor() as pool:
        ours, theirs = pool.map(lambda one: scored(helix, python, {**common, **one}), requests)
    nodes = sum(map(len, ranges.values()))
    return (
        f"{name}: planned in {took:.1f} s (target 60), {nodes} of {sum(machines.values())} machines; "
        f"decode tokens/s over {seconds[1]:.0f} s after {seconds[0]:.0f}: ours {ours['tokens_s']:.1f}, "
        f"Helix's {theirs['tokens_s']:.1f}, ratio {ours['tokens_s'] / theirs['tokens_s']:.2f} (target 0.9); "
        f"max flow {ours['flow']:.0f} and {theirs['flow']:.0f} tokens/s"
    )


def main(wanted: Sequence[str]) -> None:
    if not wanted or not Path(wanted[0], "simulator").is_dir():
        raise SystemExit(__doc__)
    names = [name for name in wanted[1:] if name in CLUSTERS] or list(CLUSTERS)
    python = next((name for name in wanted[1:] if name not in CLUSTERS), sys.executable)
    for name in names:
        print(compared(Path(wanted[0]), python, name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
