"""The live screen: it fits the terminal, shows what is wrong first, and where there is nothing to say, says so."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime

import pytest
from cli_fleet import healthy_status, small_plan
from rich.console import Console

from llmfleet.cli.render.watch import bar, render_watch
from llmfleet.launch.looking import Rates
from llmfleet.launch.nodes.probe import GpuLoad
from llmfleet.launch.results import FleetStatus

RATES = Rates({"chat-slot-0-0": 1234.5}, {"chat-slot-0-0": 2.5})


def drawn(status: FleetStatus, rates: Rates = RATES, *, width: int = 120, height: int = 40) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height)
    now = datetime(2026, 11, 26, 3, 0, 0)
    console.print(render_watch(status, small_plan(), rates, width=width, height=height, now=now))
    return out.getvalue()


def test_all_of_it() -> None:
    status = healthy_status(small_plan())
    gpus = (GpuLoad(0, 90, 40, 80), GpuLoad(1, 70, 80, 80))
    loaded = replace(status.nodes[1], accelerators="2 x A800-80G", gpus=gpus)
    text = drawn(replace(status, nodes=(status.nodes[0], loaded, status.nodes[2])))
    lines = text.splitlines()
    assert "rag: 3 nodes, plan" in lines[0] and "03:00:00" in lines[0]
    assert lines[1].startswith("1 234 tokens/s · 2.5 requests/s · 6 running · 0 waiting")
    row = next(line for line in lines if line.startswith("chat-slot-0-0"))
    assert row.split() == ["chat-slot-0-0", "healthy", "1", "234", "2.5", "2", "0", "████░░░░░░", "37", "%",
                           "50", "%", "80", "%", "75", "%"]  # fmt: skip
    node = next(line for line in lines if line.startswith("slot-0"))
    assert "2 x A800-80G" in node and "80 %" in node and "75 %" in node


@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (130, 30)])
def test_it_fits(width: int, height: int) -> None:
    status = healthy_status(small_plan())
    many = tuple(replace(status.nodes[1], name=f"slot-{n}") for n in range(200))
    good = [replace(status.instances[0], id=f"chat-{n}") for n in range(200)]
    worse = (*good[:150], replace(good[150], state="unhealthy"), *good[151:])
    found = replace(
        status, nodes=(status.nodes[0], *many), instances=worse, problems=tuple(f"chat-{n} is bad" for n in range(9))
    )
    text = drawn(found, width=width, height=height)
    lines = text.splitlines()
    assert len(lines) <= height
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "chat-150" in text, "what is not well comes first"
    assert "more" in text


def test_a_fleet_that_does_not_answer() -> None:
    status = healthy_status(small_plan())
    unknown = {"running": None, "waiting": None, "kv_usage": None, "prefix_hit_rate": None}
    nothing = tuple(replace(i, **unknown) for i in status.instances)  # type: ignore[arg-type]
    assert "0 tokens/s" in drawn(replace(status, instances=nothing), Rates())


def test_bars() -> None:
    assert bar(0.0).plain == "░░░░░░░░░░   0 %"
    assert bar(1.2).plain == "██████████ 120 %"
    assert bar(None).plain == "–"
