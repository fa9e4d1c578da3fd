"""`llmfleet watch`: what counts as dead, what is proposed for it, and that nothing flaps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from sim_fleet import PIPELINE, Sim, make_plan

from llmfleet.launch import watch_loop
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.looking import Looker, rates_between
from llmfleet.launch.record.applied import find_applied
from llmfleet.launch.results import UpReport
from llmfleet.launch.status import status
from llmfleet.launch.up import UpOptions, up
from llmfleet.launch.watch import Seen, Vigil, propose, spliced, without
from llmfleet.launch.watch_loop import Watch, WatchOptions
from llmfleet.planner.errors import FleetError, LockedError
from llmfleet.planner.inventory.model import Inventory, Placement
from llmfleet.planner.plan import Plan, sealed

LEFT = {"chat-h1-0": ("h1",), PIPELINE: ("h3", "h4"), "embed-h5-0": ("h5",)}


def changes(seen: list[Seen]) -> list[tuple[str, str]]:
    return [(s.node, s.change) for s in seen]


def test_a_moment_is_no_death() -> None:
    vigil = Vigil(60)
    assert changes(vigil.see(0, {"h2"}, set())) == [("h2", "missing")]
    assert vigil.see(30, {"h2"}, set()) == []
    assert [str(s) for s in vigil.see(59, set(), {"h2"})] == ["answers again after 59 s"]
    assert changes(vigil.see(61, {"h2"}, set())) == [("h2", "missing")], "the time begins anew"
    assert vigil.dead == set()


def test_away_for_long_is_dead_once() -> None:
    vigil = Vigil(60)
    vigil.see(0, {"h2"}, set())
    assert changes(vigil.see(60, {"h2"}, set())) == [("h2", "dead")]
    assert vigil.see(1000, {"h2"}, set()) == []
    assert vigil.dead == {"h2"}


def test_a_node_that_only_we_cannot_reach_never_dies() -> None:
    vigil = Vigil(60)
    assert changes(vigil.see(0, {"h2"}, {"h2"})) == [("h2", "serving")]
    assert [vigil.see(t, {"h2"}, {"h2"}) for t in (60, 120, 6000)] == [[], [], []]
    assert vigil.see(6030, {"h2"}, set()) == [], "the router lost it just now"
    assert changes(vigil.see(6061, {"h2"}, set())) == [("h2", "dead")]


def test_back_means_back_for_a_while() -> None:
    vigil = Vigil(60, back_after_s=300)
    vigil.see(0, {"h2"}, set())
    vigil.see(60, {"h2"}, set())
    assert vigil.see_dead(100, {"h2"}) == []
    assert vigil.see_dead(200, set()) == [], "away again: it begins anew"
    assert vigil.see_dead(300, {"h2"}) == []
    assert vigil.see_dead(599, {"h2"}) == []
    assert changes(vigil.see_dead(600, {"h2"})) == [("h2", "back")]
    assert vigil.dead == set()


def planner(
    homes: dict[str, tuple[str, ...]], seen: list[Inventory] | None = None, **plan: int
) -> Callable[[Inventory], Plan]:
    def make(inventory: Inventory) -> Plan:
        if seen is not None:
            seen.append(inventory)
        made = make_plan(homes)
        services = tuple(replace(s, capacity_rps=plan.get(s.name, s.capacity_rps)) for s in made.services)
        return sealed(replace(made, services=services, hash=""))

    return make


def test_what_lost_nothing_is_fixed_where_it_runs(running: Sim) -> None:
    seen: list[Inventory] = []
    proposal = propose(running.fleet, {"h2"}, planner({**LEFT, "chat-h5-1": ("h5",)}, seen, chat=5))
    (asked,) = seen
    assert [n.name for n in asked.nodes if n.exclude] == ["h2"]
    assert asked.service("embed").placement == (Placement(nodes=("h5",)),)
    assert asked.service("chat").placement == ()
    assert proposal is not None and proposal.gains
    assert (proposal.before, proposal.after) == ({"chat": 6}, {"chat": 5})
    assert proposal.left["chat"] == pytest.approx(4)
    embed = running.plan.those(["embed-h5-0"])[0]
    assert proposal.plan.those(["embed-h5-0"])[0] == embed
    assert proposal.plan.those(["chat-h5-1"])[0].port != embed.port, "both on h5"


def test_no_gain_is_no_reason(running: Sim) -> None:
    proposal = propose(running.fleet, {"h2"}, planner(LEFT, chat=4))
    assert proposal is not None and not proposal.gains
    assert propose(running.fleet, {"head"}, planner(LEFT)) is None, "it carries no instance"


def test_what_a_person_fixed_on_dead_nodes_is_not_moved(running: Sim) -> None:
    chat = running.inventory.service("chat")

    def fixed(*nodes: str) -> Inventory:
        placement = tuple(Placement(nodes=(n,)) for n in nodes)
        services = (chat.model_copy(update={"placement": placement}), running.inventory.service("embed"))
        return running.inventory.model_copy(update={"services": services})

    running.inventory = fixed("h1", "h2")
    assert [p.nodes for p in without(running.fleet, {"h2"}, {"chat"}).service("chat").placement] == [("h1",)]
    running.inventory = fixed("h2")
    with pytest.raises(FleetError, match="every instance of chat was fixed by hand on nodes that are dead: h2"):
        without(running.fleet, {"h2"}, {"chat"})


def test_services_that_are_gone_from_the_new_plan_stay_as_they_are(running: Sim) -> None:
    made = spliced(running.fleet, make_plan(LEFT), {"chat"}, {"h2"})
    assert {i.id for i in made.instances} == set(LEFT)
    assert made.hash == sealed(replace(made, hash="")).hash


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def watching(sim: Sim, make: Callable[[Inventory], Plan], *, apply: bool) -> tuple[Watch, list[str], list[Plan], Clock]:
    said: list[str] = []
    put: list[Plan] = []
    clock = Clock()
    return Watch(sim.fleet, WatchOptions(5, 60, apply), make, said.append, put.append, clock), said, put, clock


def look(watch: Watch, clock: Clock, *moments: float) -> None:
    for clock.now in moments:
        watch.see(status(watch.fleet))


def test_it_proposes_and_touches_nothing(running: Sim) -> None:
    watch, said, put, clock = watching(running, planner({**LEFT, "chat-h5-1": ("h5",)}, chat=5), apply=False)
    before = {name: list(n.actions) for name, n in running.nodes.items()}
    running.nodes["h2"].die()
    running.flags["chat-h2-0"] = "failed_active_health_check"
    look(watch, clock, 0, 30, 59)
    assert [s for s in said if s.startswith("h2 ")] == ["h2 does not answer"]
    look(watch, clock, 61, 100, 500)
    assert sum("is taken for dead" in s for s in said) == 1
    assert any("chat 4.0 of 6.0 requests/s, 5.0 with another plan" in s for s in said)
    path = running.folder / "proposed.json"
    assert f"to put it in place: llmfleet up --plan {path} --skip-unreachable" in said
    assert find_applied(running.folder, str(path)).plan.those(["chat-h5-1"])[0].nodes == ("h5",)
    assert {name: n.actions for name, n in running.nodes.items()} == before
    assert put == []


def test_it_does_it_once_where_it_may(running: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(fleet: Fleet, options: UpOptions) -> UpReport:
        running.plan = fleet.plan  # what the simulated router serves
        return up(fleet, options)

    monkeypatch.setattr(watch_loop, "up", act)
    watch, said, put, clock = watching(running, planner({**LEFT, "chat-h5-1": ("h5",)}, chat=5), apply=True)
    running.nodes["h2"].die()
    running.flags["chat-h2-0"] = "failed_active_health_check"
    look(watch, clock, 0, 61)
    assert put == [running.plan]
    assert running.nodes["h5"].actions == [("start", "chat-h5-1")]
    assert "h2/chat-h2-0" in running.state()["processes"], "what may run there is not forgotten"
    look(watch, clock, 70, 80, 500)
    assert len(put) == 1
    assert any("inventory.yaml still has h2" in s for s in said)
    running.nodes["h2"].error = None
    running.flags.clear()
    look(watch, clock, 600, 700)
    assert any(s.startswith("h2 is back") for s in said)
    assert running.nodes["h2"].actions == [], "it is told of, and nothing else"
    assert len(put) == 1


def test_one_that_the_router_still_reaches_is_left_alone(running: Sim) -> None:
    watch, said, put, clock = watching(running, planner({**LEFT, "chat-h5-1": ("h5",)}, chat=5), apply=True)
    running.nodes["h2"].die()
    look(watch, clock, 0, 61, 1000)
    assert [s for s in said if s.startswith("h2 ")] == [f"h2 {Seen('h2', 'serving')}"]
    assert put == []


def test_without_the_head_nothing_is_judged(running: Sim) -> None:
    watch, said, _, clock = watching(running, planner(LEFT), apply=True)
    for name in ("head", "h1", "h2"):
        running.nodes[name].die()
    look(watch, clock, 0, 100, 1000)
    assert said == ["head, the head node, does not answer: nothing can be judged from here"]


def test_a_lock_is_waited_for_and_a_failure_is_not_tried_again(
    running: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, said, put, clock = watching(running, planner({**LEFT, "chat-h5-1": ("h5",)}, chat=5), apply=True)
    tries: list[FleetError] = [LockedError("ann works on this fleet"), FleetError("no room")]

    def failing(*_: object) -> None:
        raise tries.pop(0)

    monkeypatch.setattr(watch_loop, "up", failing)
    running.nodes["h2"].die()
    running.flags["chat-h2-0"] = "failed_active_health_check"
    look(watch, clock, 0, 61, 70, 80)
    assert len(tries) == 1, "not before half a minute"
    look(watch, clock, 100, 200, 900)
    assert tries == []
    assert any("ann works on this fleet; trying again in 30 s" in s for s in said)
    assert any("it could not be put in place, and is not tried again: no room" in s for s in said)
    assert put == []


def test_other_problems_are_told_once_and_when_they_end(running: Sim) -> None:
    watch, said, _, clock = watching(running, planner(LEFT), apply=False)
    running.nodes["h1"].processes["chat-h1-0"]["state"] = "unhealthy"
    look(watch, clock, 0, 5, 10)
    running.nodes["h1"].processes["chat-h1-0"]["state"] = "healthy"
    look(watch, clock, 15, 20)
    assert said == ["chat-h1-0 is unhealthy", "no longer: chat-h1-0 is unhealthy"]


def test_rates_between_two_looks(running: Sim) -> None:
    def at(tokens: int | None, requests: int) -> object:
        found = status(running.fleet)
        instances = tuple(replace(i, generated_tokens=tokens) if i.id == "chat-h1-0" else i for i in found.instances)
        return replace(found, instances=instances, router=replace(found.router, requests={"chat-h1-0": requests}))

    first, second = at(100, 10), at(300, 14)
    found = rates_between((10.0, first), (12.0, second))  # type: ignore[arg-type]
    assert (found.output_tokens_per_s, found.requests_per_s) == ({"chat-h1-0": 100.0}, {"chat-h1-0": 2.0})
    assert rates_between(None, (12.0, second)).requests_per_s == {}  # type: ignore[arg-type]
    assert rates_between((10.0, second), (12.0, first)).output_tokens_per_s == {}, "it was started anew"  # type: ignore[arg-type]


def test_a_look_goes_on_when_a_node_goes_and_comes(running: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmfleet.launch.looking.RETRY_S", 0.01)
    with Looker(running.fleet) as looker:
        assert looker.look()[0].ok
        running.nodes["h1"].die()
        assert looker.look()[0].unreachable == ("h1",)
        running.nodes["h1"].error = None
        deadline = time.monotonic() + 20
        while looker.look()[0].unreachable and time.monotonic() < deadline:
            time.sleep(0.01)
        assert looker.look()[0].ok
