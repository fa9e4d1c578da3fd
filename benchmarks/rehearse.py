"""The same requests simulated and rehearsed, side by side: one engine model, run in two ways. Passes no judgement.

    python benchmarks/rehearse.py [--requests 600] [--speed 1] [--load 1] [--inventory FILE] [--service chat]

Without an inventory: four alike instances, on which a median is one of all requests. On unlike ones it follows from
which documents go to which kind, and that is a matter of the hash. `--service`: its requests alone. The rehearsal runs
in real time on this machine and says so itself where the machine was too slow for it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from llmfleet.cli.simulate import decided
from llmfleet.launch.rehearse.rehearse import rehearse
from llmfleet.planner.simulate.fleet import fleet_of
from llmfleet.planner.simulate.report import Report, ServiceResult
from llmfleet.planner.simulate.simulate import Scenario, simulate

FLEET = """
cluster: alike
nodes:
  - {name: head, host: 10.0.0.10}
  - {name: "a800-[0-1]", host: "10.0.1.[10-11]", gpus: 8 x A800-80G, link: nvlink}
services:
  - name: chat
    model: Qwen/Qwen1.5-72B-Chat
    traffic: {rate: 3, input: {mean: 2000, p99: 8000}, output: {mean: 150}, shared_prefix: 0.5}
    slo: {ttft: 3s, tpot: 100ms}
"""


def figures(report: Report, service: ServiceResult) -> dict[str, float]:
    running = sum(c.running * c.instances for c in report.classes if c.service == service.service)
    return {
        "TTFT p50, ms": service.ttft_ms.get("p50", 0.0),
        "TTFT p95, ms": service.ttft_ms.get("p95", 0.0),
        "TPOT p50, ms": service.tpot_ms.get("p50", 0.0),
        "E2E p50, ms": service.e2e_ms.get("p50", 0.0),
        "prefix hits": service.prefix_hit_rate,
        "in SLO": service.attained,
        "requests at work": running,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--load", type=float, default=1.0)
    parser.add_argument("--inventory", type=Path)
    parser.add_argument("--service")
    asked = parser.parse_args()
    with TemporaryDirectory(prefix="lf") as folder:
        inventory = asked.inventory or Path(folder) / "inventory.yaml"
        if not asked.inventory:
            inventory.write_text(FLEET)
        decision, plan = decided(inventory)
    if asked.service:
        decision = replace(decision, demands=tuple(d for d in decision.demands if d.service.name == asked.service))
    scenario = Scenario(requests=asked.requests, load=asked.load)
    simulated = simulate(decision, plan, scenario)
    done = rehearse(
        plan, fleet_of(decision, plan), decision.demands, scenario, (), speed=asked.speed, say=print,
        progress=lambda _done, _total: None,
    )  # fmt: skip
    for mine, theirs in zip(simulated.services, done.report.services, strict=True):
        print(f"\n{mine.service}, {mine.requests} requests   simulated   rehearsed")
        seen = figures(done.report, theirs)
        for name, value in figures(simulated, mine).items():
            if value:
                print(f"  {name:<20} {value:12.4g} {seen[name]:11.4g}   {seen[name] / value - 1:+.1%}")
    print(f"\nerrors: {done.errors or 'none'}; {done.client_limited or 'not limited by this machine'}")


if __name__ == "__main__":
    main()
