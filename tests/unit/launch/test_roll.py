"""What a changed plan does to what runs: pure decisions, in the order in which a fleet goes through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_fleet import instance

from llmfleet.launch.change.roll import Engine, Roll, Wanted, nodes_at_once, plan_roll
from llmfleet.launch.change.roll_router import transition
from llmfleet.launch.nodes.process import Process
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Instance, Plan, Pool, RouterPlan, ServicePlan

ORDER = ("head", "h1", "h2", "h3", "h4", "h5")


def engine(name: str, nodes: tuple[str, ...], version: str = "old", **changes: Any) -> tuple[Process, Instance]:
    made = instance(name, nodes, **changes)
    return Process(name, nodes[0], "engine", ("engine", version, name)), made


def running(*engines: tuple[Process, Instance]) -> list[Engine]:
    return [Engine(p.node, p.name, p.digest, i) for p, i in engines]


def ray(version: str = "old", nodes: Iterable[str] = ("head", "h3", "h4")) -> list[Process]:
    return [
        Process("ray-head" if n == "head" else "ray-worker", n, "ray-head" if n == "head" else "ray-worker", (version,))
        for n in nodes
    ]


def rolled(
    wanted: list[tuple[Process, Instance]], old: list[Engine], *, at_once: int = 1,
    ray_wanted: list[Process] | None = None, ray_old: list[Process] | None = None,
) -> Roll:
    what = Wanted([p for p, _ in wanted], ray_wanted or [], {i.id: i for _, i in wanted}, {n: n for n in ORDER}, "head")
    digests = {(p.node, p.name): p.digest for p in ray_old or []}
    return plan_roll(what, old, digests, order=ORDER, at_once=at_once)


def shape(roll: Roll) -> list[tuple[list[str], list[str]]]:
    return [([e.name for e in w.out], [p.name for p in w.start]) for w in roll.waves]


def test_nothing_runs_all_is_fresh() -> None:
    roll = rolled([engine("chat-h1-0", ("h1",)), engine("chat-h2-0", ("h2",))], [])
    assert ([p.name for p in roll.fresh], roll.waves) == (["chat-h1-0", "chat-h2-0"], ())


def test_what_runs_as_wanted_is_let_be() -> None:
    both = [engine("chat-h1-0", ("h1",)), engine("chat-h2-0", ("h2",))]
    roll = rolled(both, running(*both))
    assert (len(roll.fresh), roll.waves, roll.leaving) == (2, (), ())


def test_another_version_goes_node_by_node() -> None:
    homes = {"chat-h1-0": ("h1",), "chat-h2-0": ("h2",)}
    roll = rolled(
        [engine(n, h, "new") for n, h in homes.items()], running(*(engine(n, h) for n, h in reversed(homes.items())))
    )
    assert shape(roll) == [(["chat-h1-0"], ["chat-h1-0"]), (["chat-h2-0"], ["chat-h2-0"])]
    assert (roll.fresh, roll.waiting) == ((), {"chat-h1-0", "chat-h2-0"})


def test_new_before_old_where_gpus_allow() -> None:
    roll = rolled([engine("chat-h2-0", ("h2",), port=8200)], running(engine("chat-h1-0", ("h1",))))
    assert [p.name for p in roll.fresh] == ["chat-h2-0"]
    assert shape(roll) == [(["chat-h1-0"], [])]


def test_a_neighbour_on_a_shared_gpu_runs_on() -> None:
    chat = engine("chat-h1-0", ("h1",), gpu_share=0.5)
    old, new = (engine("embed-h1-0", ("h1",), version, gpu_share=0.5, port=8101) for version in ("old", "new"))
    roll = rolled([chat, new], running(chat, old))
    assert [p.name for p in roll.fresh] == ["chat-h1-0"]
    assert shape(roll) == [(["embed-h1-0"], ["embed-h1-0"])]
    assert roll.waiting == {"embed-h1-0"}


def test_other_gpus_of_the_same_node_are_free() -> None:
    new = engine("chat-h1-1", ("h1",), gpus={"h1": (1,)}, port=8101)
    roll = rolled([new], running(engine("chat-h1-0", ("h1",))))
    assert [p.name for p in roll.fresh] == ["chat-h1-1"]


@pytest.mark.parametrize("changes", [{"gpus": {"h1": (0, 1)}, "port": 8200}, {"gpus": {"h1": (1,)}, "port": 8100}])
def test_a_gpu_or_a_port_in_the_way_is_waited_for(changes: dict[str, Any]) -> None:
    roll = rolled([engine("chat-h1-1", ("h1",), **changes)], running(engine("chat-h1-0", ("h1",))))
    assert shape(roll) == [(["chat-h1-0"], ["chat-h1-1"])]


def test_a_pipeline_starts_when_the_last_in_its_way_is_gone() -> None:
    old = running(engine("chat-h3-0", ("h3",)), engine("chat-h4-0", ("h4",)), engine("chat-h1-0", ("h1",)))
    wanted = [engine("chat-h3-1", ("h3", "h4")), engine("chat-h1-0", ("h1",))]
    assert shape(rolled(wanted, old)) == [(["chat-h3-0"], []), (["chat-h4-0"], ["chat-h3-1"])]
    assert shape(rolled(wanted, old, at_once=2)) == [(["chat-h3-0", "chat-h4-0"], ["chat-h3-1"])]


def test_two_take_the_place_of_a_pipeline() -> None:
    old = running(engine("chat-h3-0", ("h3", "h4")))
    roll = rolled([engine("chat-h3-1", ("h3",)), engine("chat-h4-1", ("h4",))], old)
    assert shape(roll) == [(["chat-h3-0"], ["chat-h3-1", "chat-h4-1"])]
    assert roll.waves[0].nodes == ("h3", "h4")


def test_nodes_of_one_machine_may_swap_their_ports() -> None:
    old = [engine("chat-h1-0", ("h1",), port=8100), engine("chat-h2-0", ("h2",), port=8101)]
    new = [engine("chat-h2-0", ("h2",), "new", port=8100), engine("chat-h3-0", ("h3",), port=8101)]
    what = Wanted([p for p, _ in new], [], {i.id: i for _, i in new}, dict.fromkeys(ORDER, "10.0.0.1"), "head")
    roll = plan_roll(what, running(*old), {}, order=ORDER, at_once=1)
    assert shape(roll) == [(["chat-h1-0"], []), (["chat-h2-0"], ["chat-h2-0", "chat-h3-0"])]
    assert roll.outages([i for _, i in new]) == ("chat",), "it cannot be helped, and is told"


@pytest.mark.parametrize(("count", "bare"), [(1, ("chat",)), (2, ()), (5, ())])
def test_a_service_that_nothing_serves_for_a_while_is_known_before(count: int, bare: tuple[str, ...]) -> None:
    new = fleet("new", count)
    assert rolled(new, running(*fleet("old", count)), at_once=5).outages([i for _, i in new]) == bare


def test_an_engine_that_nobody_knows_has_its_node_to_itself() -> None:
    roll = rolled([engine("chat-h1-1", ("h1",), port=8200, gpus={"h1": (3,)})], [Engine("h1", "mystery", "x")])
    assert shape(roll) == [(["mystery"], ["chat-h1-1"])]


def test_another_ray_worker_takes_its_pipeline_along_and_no_other() -> None:
    first, second = engine("chat-h3-0", ("h3", "h4")), engine("chat-h1-0", ("h1", "h2"))
    old_ray, new_ray = ray(nodes=("head", "h1", "h2", "h3", "h4")), ray(nodes=("head", "h1", "h2", "h3"))
    new_ray += ray("new", nodes=("h4",))
    roll = rolled([first, second], running(first, second), ray_wanted=new_ray, ray_old=old_ray)
    assert shape(roll) == [(["chat-h3-0"], ["chat-h3-0"])]
    assert [p.node for p in roll.waves[0].ray] == ["h4"]
    assert [p.node for p in roll.ray] == ["head", "h1", "h2", "h3"]


def test_another_ray_head_takes_all_pipelines_along_at_once() -> None:
    first, second = engine("chat-h3-0", ("h3", "h4")), engine("chat-h1-0", ("h1", "h2"))
    lone = engine("chat-h5-0", ("h5",))
    nodes = ("h1", "h2", "h3", "h4")
    roll = rolled(
        [first, second, lone], running(first, second, lone),
        ray_wanted=[*ray("new", ("head",)), *ray("old", nodes)], ray_old=ray("old", ("head", *nodes)),
    )  # fmt: skip
    assert shape(roll) == [(["chat-h3-0", "chat-h1-0"], ["chat-h3-0", "chat-h1-0"])]
    assert [p.node for p in roll.waves[0].ray] == ["head"]


def test_ray_without_pipelines_is_started_anew_at_once() -> None:
    roll = rolled([engine("chat-h3-0", ("h3", "h4"))], [], ray_wanted=ray("new"), ray_old=ray("old"))
    assert (len(roll.ray), roll.waves) == (3, ())


def fleet(version: str, count: int, service: str = "chat") -> list[tuple[Process, Instance]]:
    return [engine(f"{service}-h{n}-0", (f"h{n}",), version) for n in range(1, count + 1)]


@pytest.mark.parametrize(("at_once", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (5, [4, 1]), (99, [4, 1])])
def test_so_many_at_once_but_never_a_whole_service(at_once: int, sizes: list[int]) -> None:
    roll = rolled(fleet("new", 5), running(*fleet("old", 5)), at_once=at_once)
    assert [len(w.out) for w in roll.waves] == sizes


def test_a_service_of_one_node_has_to_go() -> None:
    roll = rolled(fleet("new", 1), running(*fleet("old", 1)), at_once=5)
    assert shape(roll) == [(["chat-h1-0"], ["chat-h1-0"])]


@given(st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)), st.integers(1, 6))
def test_every_engine_is_treated_once_and_nothing_starts_on_what_is_held(
    old: set[int], new: set[int], same: set[int], at_once: int
) -> None:
    before = {n: engine(f"chat-h{n}-0", (f"h{n}",), "old") for n in old}
    after = [engine(f"chat-h{n}-0", (f"h{n}",), "old" if n in same else "new") for n in sorted(new)]
    roll = rolled(after, running(*before.values()), at_once=at_once)
    held = {e.node for e in running(*before.values())}
    assert len(roll.fresh) + len(roll.waiting) == len(after)
    for wave in roll.waves:
        held -= {e.node for e in wave.out}
        assert not held & {p.node for p in wave.start}
        assert len(wave.nodes) <= at_once or len(wave.nodes) == 1
    assert held == {f"h{n}" for n in old & new & same}


@pytest.mark.parametrize(
    ("text", "nodes", "count"),
    [("1", 9, 1), ("3", 9, 3), ("25%", 9, 2), ("25%", 3, 1), ("99%", 9, 8), ("100%", 9, 9), ("0", 9, 1), ("0%", 9, 1)],
)
def test_how_many_at_once(text: str, nodes: int, count: int) -> None:
    assert nodes_at_once(text, nodes) == count


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "1.5", "2 %%"])
def test_how_many_at_once_is_a_number(text: str) -> None:
    with pytest.raises(InputError, match="is no number of nodes"):
        nodes_at_once(text, 9)


def plan_of(*instances: Instance, pools: tuple[Pool, ...]) -> Plan:
    service = ServicePlan("chat", "chat", "generate", 1, 6, True, pools)
    return Plan("rag", "head", instances, (service,), RouterPlan("head", "0.0.0.0", 8080, 9901))


def served(plan: Plan) -> dict[str, list[str]]:
    return {pool.name: list(pool.instances) for service in plan.services for pool in service.pools}


A, B, C = (instance(f"chat-h{n}-0", (f"h{n}",)) for n in (1, 2, 3))


def test_old_instances_serve_in_the_places_of_new_ones() -> None:
    plan = plan_of(A, B, pools=(Pool("main", (A.id, B.id), 1.0, "main"),))
    old = replace(A, port=9999)
    found = transition(plan, [old, C], {A.id})
    assert served(found) == {"main": [A.id, B.id, C.id]}
    assert found.those([A.id])[0].port == 9999
    assert transition(plan, [], ()) == plan


def test_what_runs_nowhere_is_not_served() -> None:
    plan = plan_of(A, B, pools=(Pool("main", (A.id, B.id), 1.0, "main"),))
    found = transition(plan, [], {A.id})
    assert (served(found), [i.id for i in found.instances]) == ({"main": [B.id]}, [B.id])


def test_a_pool_that_is_all_to_come_is_served_by_the_others() -> None:
    pools = (Pool("main", (A.id,), 0.7, "main"), Pool("long", (B.id,), 0.3, "long", 16_000))
    assert served(transition(plan_of(A, B, pools=pools), [C], {B.id})) == {"main": [A.id, C.id], "long": [A.id, C.id]}


def test_a_service_that_is_no_more_is_left_out() -> None:
    plan = plan_of(A, pools=(Pool("main", (A.id,), 1.0, "main"),))
    assert transition(plan, [instance("embed-h5-0", ("h5",))], ()) == plan
