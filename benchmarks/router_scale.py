"""A thousand instances and fifty models: how long the files take to make, to be judged, and to be in force."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from asking import Client, prompt
from running import ENVOY, KEYS, Router, free_ports, plan_of, stopped_after, until

from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.process import ALONE
from llmfleet.launch.router.state import parse_stats, stats_url
from llmfleet.launch.router.validate import merged_static
from llmfleet.planner.plan import Plan, Pool, ServicePlan

INSTANCES, MODELS = 1000, 50


def rows(folder: Path) -> Iterator[tuple[str, str]]:
    plan = large()
    begun = time.monotonic()
    files = router_files(plan, hosts={i.id: "127.0.0.1" for i in plan.instances}, folder="/r", keys=KEYS)
    made = time.monotonic() - begun
    path = folder / "all.yaml"
    path.write_text(merged_static(files))
    begun = time.monotonic()
    command = (ENVOY, "--mode", "validate", "--config-path", str(path), "--log-level", "error", *ALONE)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    judged = time.monotonic() - begun
    size = sum(len(text) for text in files.values())
    yield f"{INSTANCES} instances, {MODELS} models: make the files", f"{made:.2f} s, {size / 1e6:.1f} MB"
    yield f"{INSTANCES} instances, {MODELS} models: Envoy judges them", f"{judged:.2f} s"
    yield f"{INSTANCES} instances, {MODELS} models: one weight in force", f"{in_force(folder, plan):.2f} s"


def large() -> Plan:
    """Engines that are not there: nobody asks them."""
    port, admin = free_ports(2)
    per = INSTANCES // MODELS
    names = [f"m{model}-{n}" for model in range(MODELS) for n in range(per)]
    base = plan_of([20_000 + n for n in range(INSTANCES)], port, admin, weights=dict.fromkeys(names, 100))
    instances = tuple(replace(i, service=i.id.partition("-")[0], model=i.id.partition("-")[0]) for i in base.instances)
    services = tuple(
        ServicePlan(f"m{n}", f"org/model-{n}", "generate", 1, 1, True, (_pool(names[n * per : (n + 1) * per]),))
        for n in range(MODELS)
    )
    return replace(base, instances=instances, services=services)


def _pool(names: list[str]) -> Pool:
    return Pool("main", tuple(names), 1, "main")


def in_force(folder: Path, plan: Plan) -> float:
    """From the decision to its effect: files made, differences renamed into place, read by the router."""
    router = Router(folder / "large", plan)
    with stopped_after(router.process):
        until(lambda: answers(plan.router.port), "the large router")
        changed = tuple(replace(i, weight=700) if i.id == "m3-5" else i for i in plan.instances)
        begun = time.monotonic()
        router.put(replace(plan, instances=changed))
        until(lambda: largest_weight(plan.router.admin_port, "m3.main") == 700, "the weight")
        return time.monotonic() - begun


def answers(port: int) -> bool:
    try:
        return Client(port).ask(prompt("nobody", 0))[0] in (404, 503)
    except OSError:
        return False


def largest_weight(admin: int, cluster: str) -> int:
    name = f"cluster.{cluster}.max_host_weight"
    with urllib.request.urlopen(stats_url(admin, f"^{name}$"), timeout=20) as answer:  # noqa: S310 - ours
        return parse_stats(answer.read().decode())[name]
