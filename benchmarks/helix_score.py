"""Scores one placement in Helix's simulator. Runs in a Python of its own, with networkx 3.2 and matplotlib; no Gurobi.

    python helix_score.py HELIX < request.json

The request: `evaluation`, a folder of HELIX that has `config/`; `cluster`, the file in there; `machines`, how many of
each kind; `layout`, the folder of a placement, or `ranges`, by kind the first and the past-the-end layer of each of its
machines; `seconds` of simulated time to warm up and to count. Prints decode tokens/s and the flow as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import types
from configparser import ConfigParser
from contextlib import redirect_stdout
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

OFFSET = 2  # what Helix adds to a machine's number
LAYERS = 80


class _Absent(types.ModuleType):
    """Stands for Gurobi, which scoring a placement does not use: only the solver's signatures name it."""

    def __getattr__(self, name: str) -> type:
        return object


class _Finished(dict[int, Any]):
    """When each token was finished. The simulator keeps every request whole, gigabytes of them in ten minutes."""

    def __setitem__(self, uid: int, finished: tuple[float, Any]) -> None:
        time, request = finished
        super().__setitem__(uid, (time, request.phase))


class _Forgetting(list[Any]):
    def append(self, item: object) -> None:
        pass


class _Uids(dict[int, Any]):
    def __setitem__(self, uid: int, event: object) -> None:
        super().__setitem__(uid, None)


class _Unasked:
    """In the place of its table of latencies, which nobody reads here."""

    def add_request(self, request: object) -> None:
        pass

    def add_query(self, query: object) -> None:
        pass


class _Queue:
    """Events by time, without the locks of Python's own."""

    def __init__(self) -> None:
        self.queue: list[Any] = []

    def put(self, item: Any) -> None:
        heappush(self.queue, item)

    def get(self) -> Any:
        return heappop(self.queue)

    def empty(self) -> bool:
        return not self.queue


def score(request: dict[str, Any], folder: Path) -> dict[str, float]:
    from simulator.event_simulator.cluster_simulator import ClusterSimulator, ModelName, RequestPhase, SchedulingMethod
    from simulator.initial_layout.layout_synthesizer import LayoutMethod, LayoutSynthesizer
    from simulator.scheduler.global_maxflow.global_maxflow_scheduler import KVParameters, SchedulingMode
    from simulator.trace_generator.simulator_query_feeder import OfflineRequestFeeder

    config = Path(request["evaluation"], "config")
    layout = LayoutSynthesizer(
        complete_cluster_file_name=str(config / request["cluster"]),
        machine_profile_name=str(config / "machine_profiles.ini"),
        model_name=ModelName.LLaMa70B,
        workspace_path=str(folder),
        layout_method=LayoutMethod.LoadExisting,
        machine_num_dict=request["machines"],
    )
    simulator = ClusterSimulator(model_name=ModelName.LLaMa70B, machine_num_dict=request["machines"])
    if "ranges" in request:
        _write(request, config / request["cluster"], folder, simulator.model_manager)
    files = Path(request["layout"]) if "layout" in request else folder
    names = {"solution_file_name": "ilp_sol.ini", "simulator_cluster_file_name": "simulator_cluster.ini"}
    simulator.from_ini_file(layout.synthesize(args={key: str(files / name) for key, name in names.items()}))
    # What step3_run_simulation.py has for its offline run.
    limits = KVParameters(expected_kv_hwm=0.85, expected_output_length_ratio=1)
    simulator.init_scheduler(
        scheduling_method=SchedulingMethod.MaxFlow,
        args={"kv_param": limits, "scheduling_mode": SchedulingMode.Offline},
    )
    simulator.init_query_manager()
    simulator.mark_as_ready()
    simulator.finished_requests = _Finished()
    simulator.previous_events_list, simulator.previous_events_dict = _Forgetting(), _Uids()
    simulator.logger.add_log = lambda **_: None
    simulator.query_manager.latency_analyzer = _Unasked()
    simulator.event_queue = _Queue()
    start = layout.set_layout(simulator=simulator)
    simulator.update_scheduler()
    warm, counted = request["seconds"]
    feeder = OfflineRequestFeeder(
        initial_query_count=20, start_time=start, duration=warm + counted, stop_at_duration=True, feed_hwm=0.8, seed=0
    )
    feeder.auto_simulate(simulator=simulator, watch_items=[], watch_interval=1e9)
    times = [t - start for t, phase in simulator.finished_requests.values() if phase != RequestPhase.Initialization]
    tokens = sum(warm <= t <= warm + counted for t in times)
    return {"tokens_s": tokens / counted, "flow": simulator.scheduler.core.flow_graph.flow_value}


def _write(request: dict[str, Any], cluster: Path, folder: Path, models: Any) -> None:
    """As Helix's solver writes it: the machines in use, and links wherever a range of layers joins another's."""
    kinds = ConfigParser()
    kinds.read(cluster)
    rest = {kind: [tuple(each) for each in ranges] for kind, ranges in request["ranges"].items()}
    held: dict[int, tuple[int, int]] = {}
    for number in range(int(kinds["NodeNames"]["total_compute_nodes"])):
        if waiting := rest.get(kinds[f"ComputeNode-{number}"]["type"]):
            held[number] = waiting.pop(0)
    if any(rest.values()):
        raise SystemExit(f"the cluster has no machines for {rest}")
    solution = "".join(f"compute_node_{n + OFFSET}={list(range(a, b))}\n" for n, (a, b) in held.items())
    (folder / "ilp_sol.ini").write_text(f"[Settings]\noffset={OFFSET}\n\n[Solution]\n{solution}")
    profiles = ConfigParser()
    profiles.read(cluster.with_name("machine_profiles.ini"))
    sections = ["[Coordinator]\ninbound_nic_speed=10 * gbps\noutbound_nic_speed=10 * gbps\n"]
    sections.append(f"[MachineTypes]\ntypes={[k for k in profiles.sections() if not k.endswith('Node')]}\n")
    sections.append(f"[ComputeNodes]\nnames={[f'compute_node_{n + OFFSET}' for n in held]}\n")
    for n, (first, end) in held.items():
        kind = kinds[f"ComputeNode-{n}"]["type"]
        lines = [f"{key}={profiles[kind][key]}" for key in profiles[kind]]
        lines += [f'machine_type="{kind}"', f"kv_cache_capacity={models.get_kv_cache_capacity(kind, end - first)}"]
        sections.append(f"[compute_node_{n + OFFSET}]\n" + "\n".join([*lines, "activation_backup_capacity=0", ""]))
    ends: list[tuple[str, int, int]] = [("source", 0, 0), ("sink", LAYERS, LAYERS + 1)]
    ends += [(f"compute_node_{n + OFFSET}", first, end) for n, (first, end) in held.items()]
    links = [(a, b) for a, _, end in ends for b, first, _ in ends if end == first and a != b]
    sections.append(f"[Links]\nnames={[f'link_{a}_{b}' for a, b in links]}\n")
    sections += [f"[link_{a}_{b}]\nin={a}\nout={b}\nlatency=1 * MilliSec\nbandwidth=1 * gbps\n" for a, b in links]
    (folder / "simulator_cluster.ini").write_text("\n".join(sections))


def main() -> None:
    sys.modules["gurobipy"] = _Absent("gurobipy")
    sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
    request = json.load(sys.stdin)
    gc.disable()  # nothing is thrown away there in circles; going through it all takes most of the time
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        found = score(request, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
