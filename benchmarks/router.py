"""What the router costs, how it shares and what it survives, on this machine: `make bench-router`.

Engines are Envoys that answer at once or after 20 ms, so that they cost next to nothing. CPU is that of the router's
process over the requests it took; latencies on a busy machine say little and are left out but for the worst one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import router_abuse
import router_changes
import router_faults
import router_scale
from asking import answers_of, listens, prompt, ready
from check_exports import installed
from running import (
    WEIGHTS,
    Running,
    engine,
    free_ports,
    litellm,
    our_router,
    plain_envoy,
    stopped_after,
    until,
    vllm_router,
)

BESIDE = ("Envoy, balancing only", "vllm-router round_robin", "vllm-router cache_aware")
SIZES, ROUNDS, REQUESTS = (2000, 64_000), 40, 200  # bytes of a body; rounds of so many requests, the routers in turn

# --- what is measured -------------------------------------------------------------------------------------------------


def cpu_per_request(router: Running, bodies: Sequence[bytes], clients: int = 8) -> float:
    """Microseconds."""
    before = router.cpu_s()
    answers = answers_of(router.port, bodies, clients)
    if any(status != 200 for status, _ in answers):
        sys.exit(f"{router.argv[0]} answered {Counter(status for status, _ in answers)}")
    return (router.cpu_s() - before) / len(answers) * 1e6


def shares(router: Running) -> dict[str, float]:
    bodies = [prompt(f"a prefix of its own: {n}") for n in range(3000)]
    counts = Counter(headers["x-llmfleet-instance"] for _, headers in answers_of(router.port, bodies, 2))
    return {name: counts[name] / len(bodies) for name in WEIGHTS}


def affinity(router: Running, clients: int, requests: int, seed: int) -> tuple[float, float, float]:
    """At Zipf 1.0: part of the requests that their prefix's usual instance took, part of the repeated ones that went
    where the prefix had been before, and the worst share over weight.

    Much depends on where the few hottest prefixes lie, so that several sets of prefixes are needed.
    """
    chance = random.Random(seed)  # noqa: S311
    prefixes = chance.choices(range(200), [1 / rank for rank in range(1, 201)], k=requests)
    answers = answers_of(router.port, [prompt(f"set {seed} prefix {p}", 1500) for p in prefixes], clients)
    homes: defaultdict[int, Counter[str]] = defaultdict(Counter)
    known = repeated = 0
    for prefix, (_, headers) in zip(prefixes, answers, strict=True):
        before, instance = homes[prefix], headers["x-llmfleet-instance"]
        repeated += bool(before)
        known += instance in before
        before[instance] += 1
    at_home = sum(max(counts.values()) for counts in homes.values())
    total = sum((counts for counts in homes.values()), Counter[str]())
    worst = max(total[n] / requests / (w / sum(WEIGHTS.values())) for n, w in WEIGHTS.items())
    return at_home / requests, known / repeated, worst


# --- the table --------------------------------------------------------------------------------------------------------


def costs(folder: Path) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        ports = [stack.enter_context(stopped_after(engine(folder, port, ""))).port for port in free_ports(3)]
        for port in ports:
            until(lambda port=port: listens(port), "engines")  # type: ignore[misc]
        candidates: dict[str, Callable[[], Running]] = {
            "Envoy, balancing only": lambda: plain_envoy(folder, ports),
            "llmfleet, all on": lambda: our_router(folder, ports),
            "llmfleet, all on, capped instances": lambda: our_router(folder, ports, capped=True),
        }
        if peer := shutil.which("vllm-router") or installed("vllm-router"):
            for policy in ("round_robin", "cache_aware"):
                candidates[f"vllm-router {policy}"] = lambda policy=policy: vllm_router(peer, policy, ports)  # type: ignore[misc]
        if proxy := installed("litellm"):
            candidates["LiteLLM"] = lambda: litellm(proxy, folder, ports)
        routers = {name: stack.enter_context(stopped_after(start())) for name, start in candidates.items()}
        for name, router in routers.items():
            ready(router, 3 if "llmfleet" in name else 1)
        for size in SIZES:
            yield from _compared(routers, size)


def _compared(routers: Mapping[str, Running], size: int) -> Iterator[tuple[str, str]]:
    """Medians. The routers take turns, so that what else the machine does falls on all alike."""
    bodies = [prompt(f"question {n}", size) for n in range(REQUESTS)]
    spent: dict[str, list[float]] = {name: [] for name in routers}
    for router in routers.values():
        answers_of(router.port, bodies, 8)
    for _ in range(ROUNDS):
        for name, router in routers.items():
            if name != "LiteLLM" or len(spent[name]) < 2:
                spent[name].append(cpu_per_request(router, bodies))
    cost = {name: median(rounds) for name, rounds in spent.items()}
    for name, each in cost.items():
        ratios = [f"{each / cost[other]:.2f} × {other}" for other in BESIDE if other in cost and other != name]
        yield f"CPU a request, {size // 1000} KB: {name}", f"{each:.0f} µs; {', '.join(ratios)}"


def sharing(folder: Path) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        engines = [stack.enter_context(stopped_after(engine(folder, port, "0.02s"))).port for port in free_ports(3)]
        for port in engines:
            until(lambda port=port: listens(port), "engines")  # type: ignore[misc]
        router = stack.enter_context(stopped_after(our_router(folder, engines)))
        ready(router, 3)
        ideal = {n: w / sum(WEIGHTS.values()) for n, w in WEIGHTS.items()}
        found = shares(router)
        shown = " ".join(f"{found[n]:.3f} ({ideal[n]:.3f})" for n in WEIGHTS)
        off = max(abs(found[n] - ideal[n]) for n in WEIGHTS)
        yield "share (weight), 3 000 prefixes", f"{shown}, worst {off:.3f}"
        for clients, requests in ((8, 500), (32, 1200), (96, 2400)):
            sets = [affinity(router, clients, requests, seed) for seed in range(8)]
            home, known, over = ([each[n] for each in sets] for n in range(3))
            yield (
                f"Zipf 1.0, {clients} clients, mean (worst) of 8 sets of prefixes",
                f"at home {sum(home) / 8:.3f} ({min(home):.3f}), where it was before {sum(known) / 8:.3f} "
                f"({min(known):.3f}), share over weight {sum(over) / 8:.2f} ({max(over):.2f})",
            )


PARTS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "cost": costs,
    "sharing": sharing,
    "faults": router_faults.rows,
    "changes": router_changes.rows,
    "scale": router_scale.rows,
    "abuse": router_abuse.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if left out")
    asked = parser.parse_args().parts or list(PARTS)
    if unknown := set(asked) - set(PARTS):
        sys.exit(f"no such part: {', '.join(unknown)}. Parts: {', '.join(PARTS)}")
    begun = time.monotonic()
    print("| what | measured |\n|---|---|")
    for part in asked:
        with tempfile.TemporaryDirectory() as folder:
            for what, measured in PARTS[part](Path(folder)):
                print(f"| {what} | {measured} |", flush=True)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
