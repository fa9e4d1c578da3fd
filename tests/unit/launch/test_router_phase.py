"""The router's files on the head: written where they differ, and only when Envoy would take them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sim_fleet import Sim, make_plan

from llmfleet.launch.change.steps import Runner
from llmfleet.launch.nodes.engine_load import in_flight, router_loads
from llmfleet.launch.phases import connect, router
from llmfleet.launch.phases.verify import router_url
from llmfleet.launch.session import Session, open_session
from llmfleet.planner.errors import NodesError
from llmfleet.planner.plan import Plan, RouterPlan


@pytest.fixture
def session(sim: Sim) -> Iterator[Session]:
    with open_session(sim.fleet) as made:
        made.connect(made.fleet.planned_nodes())
        connect.resolve_addresses(made, made.fleet.planned_nodes())
        for name in sim.nodes:
            sim.put_scripts(name)
        yield made


def run(session: Session) -> list[str]:
    return [c.title for c in Runner(lambda _: None).phase(1, "router", lambda: router.file_steps(session))]


def test_files_are_written_once(sim: Sim, session: Session) -> None:
    head = sim.nodes["head"]
    assert run(session) == ["router configuration"]
    assert {f"{head.folder.router}/{n}" for n in router.desired_files(session, "head")} <= set(head.files)
    assert run(session) == []


def test_only_what_differs_is_written(sim: Sim, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    run(session)
    head, put, written = sim.nodes["head"], sim.nodes["head"].put, []

    def noted(data: bytes, path: str, *, mode: int = 0o600) -> None:
        written.append(path.removeprefix(f"{head.folder.router}/"))
        put(data, path, mode=mode)

    monkeypatch.setattr(head, "put", noted)
    session.store.change(lambda s: replace(s, drained=("h2",)))
    assert run(session) == ["router configuration"]
    assert written == [router.CHECKED, "xds/eds/chat.main.yaml"]


def test_what_envoy_refuses_is_never_put_in_place(sim: Sim, session: Session) -> None:
    run(session)
    head = sim.nodes["head"]
    before = {k: v for k, v in head.files.items() if not k.endswith(router.CHECKED)}
    head.reply("envoy --mode validate", exit_code=1, stderr="[critical]\nno such filter")
    session.store.change(lambda s: replace(s, drained=("h2",)))
    with pytest.raises(NodesError, match="Envoy does not accept the router configuration: no such filter") as caught:
        run(session)
    assert "llmfleet router show" in str(caught.value)
    assert {k: v for k, v in head.files.items() if not k.endswith(router.CHECKED)} == before


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("0.0.0.0", "http://10.0.0.0:8080"),
        ("::", "http://10.0.0.0:8080"),
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("fd00::1", "http://[fd00::1]:8080"),
        ("head.example", "http://10.0.0.0:8080"),
    ],
)
def test_the_address_for_clients(session: Session, bind: str, url: str) -> None:
    plan: Plan = replace(make_plan(), router=RouterPlan("head", bind, 8080, 9901))
    session.fleet = replace(session.fleet, plan=plan)
    assert router_url(session) == url


@pytest.mark.parametrize("page", ["", "no json", "[]", '{"cluster_statuses": 3}'])
def test_an_admin_page_without_sense_is_none(sim: Sim, session: Session, page: str) -> None:
    sim.nodes["head"].pages["/clusters"] = lambda: page
    assert router_loads(session) is None


def test_the_larger_of_both_counts_is_in_flight(sim: Sim, session: Session) -> None:
    for node, instance in (("h1", "chat-h1-0"), ("h2", "chat-h2-0")):
        sim.nodes[node].processes[instance] = {"name": instance, "kind": "engine", "state": "healthy"}
    sim.nodes["h1"].running["chat-h1-0"], sim.active["chat-h1-0"] = 3, 1
    sim.nodes["h2"].running["chat-h2-0"], sim.active["chat-h2-0"] = 1, 4
    assert in_flight(session, [("h1", "chat-h1-0"), ("h2", "chat-h2-0")]) == {"chat-h1-0": 3, "chat-h2-0": 4}
    sim.nodes["h1"].die()
    assert in_flight(session, [("h1", "chat-h1-0")]) == {"chat-h1-0": 1}
