"""The router's policies on the reference fleet, simulated, under traces in two public layouts. Prints Markdown.

    python benchmarks/policies.py                                        seeded traces of our own, like the public ones
    python benchmarks/policies.py --mooncake FILE --azure FILE           the public ones, where they are at hand
    python benchmarks/policies.py --write FOLDER                         writes our own traces there, and nothing else

Each trace is replayed at the highest load at which the router's own policy still serves all but 2 % of the requests at
full quality, and at half of it. Requests longer than the fleet takes are left out. Traces without ids of blocks share
more documents than one instance's cache holds; with fewer, every instance has them all and affinity has nothing to win.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmfleet.cli.simulate import decided
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.plan import Plan
from llmfleet.planner.simulate.fleet import Fleet, Policy, fleet_of
from llmfleet.planner.simulate.report import ServiceResult
from llmfleet.planner.simulate.requests import replayed
from llmfleet.planner.simulate.simulate import Scenario, simulate_fleet
from llmfleet.planner.traffic.traces import BLOCK, Traced, read_trace

REFERENCE = Path(__file__).resolve().parents[1] / "inventory.example.yaml"
NAMES = {"round-robin": "round robin", "least-request": "least request", "weights": "weights only",
         "affinity": "affinity only", "router": "weights + affinity + bound"}  # fmt: skip
ORDER: tuple[Policy, ...] = ("round-robin", "least-request", "weights", "affinity", "router")


SPILLED = 0.02
DOCUMENTS = 400


def conversations(seed: int = 1, sessions: int = 2600, span_s: float = 3500.0) -> list[dict[str, object]]:
    """Like the Mooncake conversation trace: one system prompt of a block, then sessions whose prompts grow by turns."""
    rng = np.random.default_rng(seed)
    rows, fresh = [], 1
    for start in np.sort(rng.uniform(0, span_s, sessions)):
        turns, at = 1 + rng.geometric(0.28), float(start)
        blocks = [0]
        for _ in range(turns):
            grown = max(1, int(rng.lognormal(1.75, 1.0)))
            blocks = [*blocks, *range(fresh, fresh + grown)]
            fresh += grown
            answer = max(1, int(rng.lognormal(5.6, 0.7)))
            length = len(blocks) * BLOCK - int(rng.integers(0, BLOCK))
            rows.append(
                {"timestamp": int(at * 1000), "input_length": length, "output_length": answer, "hash_ids": blocks}
            )
            at += 10 + float(rng.exponential(60))
    return sorted(rows, key=lambda row: int(str(row["timestamp"])))


def short_prompts(seed: int = 2, count: int = 12_000, rate: float = 5.5) -> str:
    """Like the Azure conversation trace: prompts of 1 155 and answers of 211 tokens on average, arrivals in bursts."""
    rng = np.random.default_rng(seed)
    gaps = rng.gamma(0.5, 2 / rate, count)
    rows = zip(np.cumsum(gaps), rng.lognormal(6.72, 0.8, count), rng.lognormal(5.0, 0.8, count), strict=True)
    lines = [f"{at:.3f},{max(1, int(p))},{max(1, int(a))}" for at, p, a in rows]
    return "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n"


def study(name: str, trace: Sequence[Traced], decision: Decision, plan: Plan, windows: Sequence[int]) -> None:
    chat = decision.demands[0]
    longest = max(i.max_model_len for i in plan.instances if i.service == chat.service.name)
    kept = [row for row in trace if row.prompt + row.answer <= longest]
    print(f"\n### {name}\n\n{len(kept):,} requests ({1 - len(kept) / len(trace):.1%} are too long and left out), "
          f"{np.mean([r.prompt for r in kept]):,.0f} tokens in, "
          f"{np.mean([r.answer for r in kept]):,.0f} out.")  # fmt: skip
    fleet = fleet_of(decision, plan)
    top = _highest(fleet, decision, kept, windows[-1])
    for load in (0.5 * top, top):
        rate = load * len(kept) / kept[-1].at
        print(f"\nAt {rate:.2f} requests/s:\n")
        print("| policy | hash over | in SLO | goodput | TTFT p50 | TTFT p95 | TPOT p95 | prefix hits | degraded |")
        print("|---|---|---|---|---|---|---|---|---|")
        for policy in ORDER:
            hashing = policy in ("router", "affinity")
            for window in windows if hashing else windows[:1]:
                row = _run(fleet, decision, kept, policy, load, window)
                over = f"{4 * window:,} bytes" if hashing else "–"
                print(f"| {NAMES[policy]} | {over} | {row.attained:.1%} | {row.goodput_rps:.2f}/s |"
                      f" {row.ttft_ms['p50'] / 1000:.2f} s | {row.ttft_ms['p95'] / 1000:.2f} s |"
                      f" {row.tpot_ms['p95']:.0f} ms | {row.prefix_hit_rate:.0%} | {row.degraded:.1%} |")  # fmt: skip


def _highest(fleet: Fleet, decision: Decision, trace: Sequence[Traced], window: int) -> float:
    low, high = 0.01, 4.0
    for _ in range(9):
        middle = (low * high) ** 0.5
        row = _run(fleet, decision, trace, "router", middle, window)
        low, high = (middle, high) if row.degraded + row.refused < SPILLED else (low, middle)
    return low


def _run(
    fleet: Fleet, decision: Decision, trace: Sequence[Traced], policy: Policy, load: float, window: int
) -> ServiceResult:
    chat = decision.demands[0]
    stream = replayed(chat, trace, np.random.default_rng(0), speed=load, window=window, documents=DOCUMENTS)
    scenario = Scenario(policy=policy, streams={chat.service.name: stream})
    return simulate_fleet(fleet, decision.demands[:1], scenario).services[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mooncake", type=Path)
    parser.add_argument("--azure", type=Path)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    talks = "\n".join(json.dumps(row) for row in conversations()) + "\n"
    if asked.write:
        asked.write.mkdir(parents=True, exist_ok=True)
        (asked.write / "conversations.jsonl").write_text(talks)
        (asked.write / "short_prompts.csv").write_text(short_prompts())
        return
    decision, plan = decided(REFERENCE)
    mooncake = asked.mooncake.read_text() if asked.mooncake else talks
    azure = asked.azure.read_text() if asked.azure else short_prompts()
    what = ("Mooncake conversation trace", "Azure conversation trace 2023")
    first, second = (
        name if given else f"Like the {name} (seeded)"
        for name, given in zip(what, (asked.mooncake, asked.azure), strict=True)
    )
    study(first, read_trace(mooncake, "mooncake"), decision, plan, (256, 1024))
    study(second, read_trace(azure, "azure"), decision, plan, (256,))


if __name__ == "__main__":
    main()
