"""What the simulation costs, and what it says of the planner's formula. Prints; passes no judgement.

    python benchmarks/simulate.py            all three tables
    python benchmarks/simulate.py speed      requests a second of CPU time, one core
    python benchmarks/simulate.py formula    the reference fleet: utilization and verdicts, planned and simulated
    python benchmarks/simulate.py random     verdicts on a hundred random plans
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from llmfleet.cli.simulate import decided
from llmfleet.planner.catalog import catalog
from llmfleet.planner.choose.decision import Decision, decide
from llmfleet.planner.errors import FleetError
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.make import make_plan
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.compiled import COMPILES
from llmfleet.planner.simulate.simulate import Scenario, simulate
from llmfleet.planner.simulate.verify import Verified, running, verify

REFERENCE = Path(__file__).resolve().parents[1] / "inventory.example.yaml"
MODELS = ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-14B-Instruct", "Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen1.5-72B-Chat",
          "Qwen/Qwen3-8B", "Qwen/Qwen3-32B")  # fmt: skip
NODES = ("8 x A800-80G", "8 x H20-96G", "8 x H100-80G", "8 x L40S", "8 x RTX 4090", "4 x A100-80G")
PLANS = 100
TURNS = 20  # times that what is under way is replaced in a run: shorter ones end before the fleet is full


def speed() -> None:
    decision, plan = decided(REFERENCE)
    simulate(decision, plan, Scenario(requests=2000))  # compiles
    for name, count in (("the reference fleet's mix", 1_000_000), ("its chat requests alone", 300_000)):
        chat = Decision(
            **{f: getattr(decision, f) for f in Decision.__slots__}
            | ({"demands": decision.demands[:1]} if "chat" in name else {})
        )
        start = time.process_time()
        report = simulate(chat, plan, Scenario(requests=count))
        spent = time.process_time() - start
        print(f"{name}: {report.requests:,} requests, {spent:.2f} s of CPU: {report.requests / spent:,.0f} a second"
              f" ({'compiled' if COMPILES else 'plain Python'})")  # fmt: skip


def formula() -> None:
    """Under the plan's own assumptions: every shared prefix is found, requests are split by weight."""
    decision, plan = decided(REFERENCE)
    scenario = Scenario(requests=300_000, documents=1, policy="weights")
    report = simulate(decision, plan, scenario)
    print("class and service              planned running   simulated   places in use: planned, simulated")
    for c, count in decision.counts.items():
        planned = running(decision, c, 1.0)
        found = next(r for r in report.classes if (r.gpu, r.service) == (c.node_class.gpu.name, c.service))
        if planned < 1e-6:
            continue
        places = next(
            i.max_concurrency for i in plan.instances if i.service == c.service and i.nodes[0] in c.node_class.nodes
        )
        print(f"{count:3} × {c.node_class.gpu.name:<10} {c.service:<12} {planned:12.3g} {found.running:12.3g}"
              f"   {planned / places:10.1%} {found.utilization:8.1%}"
              f"   off by {found.running / planned - 1:+.0%}")  # fmt: skip
    for one in verify(decision, plan, report):
        print(_line(one))


def _line(one: Verified) -> str:
    return (f"{one.service:<10} at {one.load:.2f} × peak: the plan says {one.planned_met},"
            f" the simulation {one.simulated_met} ({one.attained:.1%} kept the SLO;"
            f" {one.simulated_prefix_hit:.0%} of prompts cached)")  # fmt: skip


def random_plans() -> None:
    """Loads from 0.4 to 1.6 times what the formula says the fleet takes; `near` are those within 15 % of it."""
    chance = random.Random(7)  # noqa: S311
    agreed, near, made, errors = 0, 0, 0, []
    near_made = 0
    while made < PLANS:
        found = _random_plan(chance)
        if found is None:
            continue
        decision, plan = found
        ratio = chance.uniform(0.4, 1.6)
        load = ratio * plan.services[0].capacity_rps / plan.services[0].demand_rps
        under_way = sum(running(decision, c, load) * count for c, count in decision.counts.items())
        requests = max(6000, round(TURNS * under_way))
        report = simulate(
            decision, plan, Scenario(requests=requests, load=load, documents=1, policy="weights", seed=made)
        )
        one = verify(decision, plan, report, load)[0]
        made += 1
        agreed += one.agree
        if abs(ratio - 1) < 0.15:
            near_made += 1
            near += one.agree
        if one.planned_met:
            errors.append(abs(one.simulated_running / one.planned_running - 1))
        if "-v" in sys.argv and not one.agree:
            print(f"{ratio:.2f} × capacity: {_line(one)} {plan.instances[0].model} {plan.instances[0].nodes}")
    errors.sort()
    print(f"{agreed} of {made} random plans: formula and simulation give the same verdict"
          f" ({near} of {near_made} within 15 % of the limit)")  # fmt: skip
    print(f"requests under way, where the SLO is met: median off by {errors[len(errors) // 2]:.1%},"
          f" 90th percentile {errors[int(len(errors) * 0.9)]:.1%}")  # fmt: skip


def _random_plan(chance: random.Random) -> tuple[Decision, Plan] | None:
    model, gpus = chance.choice(MODELS), chance.choice(NODES)
    mean = chance.choice((300, 1000, 2000, 4000))
    text = f"""
cluster: c
access: {{transport: fake}}
nodes:
  - {{name: head, host: 10.0.0.1}}
  - {{name: "n-[0-{chance.choice((0, 1, 3))}]", host: "10.0.1.[10-13]", gpus: {gpus}}}
services:
  - name: chat
    model: {model}
    traffic: {{rate: 1, input: {{mean: {mean}, p99: {mean * chance.choice((3, 5))}}},
               output: {{mean: {chance.choice((100, 300, 600))}}}, shared_prefix: {chance.choice((0, 0, 0.3, 0.6))}}}
    slo: {{ttft: {chance.choice((2, 4, 8))}s, tpot: {chance.choice((60, 100, 150))}ms}}
"""
    text = text.replace("10.0.1.[10-13]", "10.0.1.[10-1" + text.split('n-[0-')[1][0] + "]")
    known = catalog()
    try:
        inventory = parse(text, "random.yaml")
        model_of = {"chat": known.model(model)}
        if model_of["chat"] is None:
            return None
        plan, decision = make_plan(inventory, model_of, known), decide(inventory, model_of, known)
    except FleetError:
        return None
    return (decision, plan) if plan.services[0].capacity_rps > 0 and plan.services[0].pools else None


def main() -> None:
    tables = {"speed": speed, "formula": formula, "random": random_plans}
    asked = [name for name in sys.argv[1:] if name in tables] or list(tables)
    for name in asked:
        print(f"\n{name}")
        tables[name]()


if __name__ == "__main__":
    main()
