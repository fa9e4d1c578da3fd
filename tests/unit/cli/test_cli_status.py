"""How a fleet's state is shown, and the JSON that scripts rely on."""

from __future__ import annotations

import io
from dataclasses import replace

from cli_fleet import healthy_status, small_plan
from rich.console import Console

from llmfleet.cli.render.status import actual_shares, next_step, planned_shares, render_status, status_json
from llmfleet.launch.results import FleetStatus, RouterStatus

PLAN = small_plan()
FINE = healthy_status(PLAN)
BROKEN = replace(
    FINE,
    ok=False,
    nodes=(*FINE.nodes[:2], replace(FINE.nodes[2], state="unreachable", reason="no answer within 10 s")),
    instances=(
        replace(FINE.instances[0], state="unhealthy", restarts=3, reason="exit code 1", running=None, waiting=None),
        *FINE.instances[1:],
    ),
    problems=("slot-1 is unreachable: no answer within 10 s", "chat-slot-0-0 is unhealthy: exit code 1"),
)


def text(status: FleetStatus, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(render_status(status, PLAN, width=width))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_shares_are_of_the_service() -> None:
    assert planned_shares(PLAN) == {"chat-slot-0-0": 0.75, "chat-slot-1-0": 0.25, "embed-slot-1-0": 1.0}
    assert actual_shares(FINE) == {"chat-slot-0-0": 0.8, "chat-slot-1-0": 0.2}


def test_a_healthy_fleet() -> None:
    assert text(FINE).splitlines() == [
        f"rag: 3 nodes, plan {PLAN.hash[:6]}, all as planned",
        "",
        "node    host       state  instances",
        "head    127.0.0.1  ready  router",
        "slot-0  127.0.0.2  ready  chat-slot-0-0",
        "slot-1  127.0.0.3  ready  chat-slot-1-0, embed-slot-1-0",
        "",
        "instance        state    running  waiting    KV  prefix  share (plan)  requests  address",
        "chat-slot-0-0   healthy        2        0  37 %    50 %   80 % (75 %)     1 600  http://slot-0:8100",
        "chat-slot-1-0   healthy        2        0  37 %    50 %   20 % (25 %)       400  http://slot-1:8100",
        "embed-slot-1-0  healthy        2        0  37 %    50 %     – (100 %)         0  http://slot-1:8100",
        "",
        "router  http://127.0.0.1:8080/v1  healthy  2 000 requests, 2 active",
        "Ray     head                      healthy  1 node: slot-0",
    ]


def test_two_routers_behind_one_address() -> None:
    second = replace(FINE.router, node="slot-1", address="http://127.0.0.3:8080", requests={}, active={})
    shared = replace(FINE.router, address="http://10.0.0.9:8080")
    lines = text(replace(FINE, router=shared, routers=(FINE.router, second))).splitlines()
    assert "slot-1  127.0.0.3  ready  router, chat-slot-1-0, embed-slot-1-0" in lines
    assert lines[-4:-1] == [
        "clients  http://10.0.0.9:8080/v1",
        "router   http://127.0.0.1:8080/v1  healthy  2 000 requests, 2 active",
        "router   http://127.0.0.3:8080/v1  healthy  0 requests, 0 active",
    ]


def test_a_narrow_terminal_gets_whole_names_and_no_addresses() -> None:
    lines = text(FINE, width=80).splitlines()
    assert "chat-slot-0-0   healthy        2        0  37 %    50 %   80 % (75 %)" in lines
    assert max(map(len, lines)) <= 80


def test_a_broken_fleet_says_what_is_wrong_and_what_to_do() -> None:
    shown = text(BROKEN)
    assert "2 problems" in shown.splitlines()[0]
    assert "3 restarts, exit code 1" in shown
    assert "unreachable" in shown and "no answer within 10 s" in shown
    assert shown.splitlines()[-1] == "next: bring slot-1 back, or llmfleet drain slot-1"


def test_many_nodes_to_bring_back_are_ranges() -> None:
    away = tuple(replace(BROKEN.nodes[0], name=f"a-{n}", state="unreachable") for n in range(200))
    assert next_step(replace(BROKEN, nodes=away)) == "bring a-[0-199] back, or llmfleet drain a-0"


def test_names_are_not_taken_for_markup() -> None:
    odd = replace(FINE, problems=("[bold]x[/] [/]",), ok=False)
    assert "[bold]x[/] [/]" in text(odd)


def test_router_that_is_away_has_no_figures() -> None:
    away = replace(
        FINE, router=RouterStatus("head", "http://127.0.0.1:8080", "unreachable", reason="head is unreachable")
    )
    assert actual_shares(away) == {}
    assert "– (75 %)" in text(away)
    assert "head is unreachable" in text(away)


def test_json_has_the_keys_of_the_contract() -> None:
    body = status_json(BROKEN, PLAN)
    assert body["plan_hash"] == PLAN.hash
    assert body["ok"] is False
    assert [(n["name"], n["state"]) for n in body["nodes"]][-1] == ("slot-1", "unreachable")
    first = body["instances"][0]
    assert (first["id"], first["state"], first["running"], first["waiting"]) == (
        "chat-slot-0-0",
        "unhealthy",
        None,
        None,
    )
    assert (first["kv_usage"], first["prefix_hit_rate"]) == (0.37, 0.5)
    assert (first["planned_share"], first["actual_share"]) == (0.75, 0.8)
    assert body["instances"][2]["actual_share"] is None
    assert body["router"]["requests"]["chat-slot-0-0"] == 1600
