"""Services that may use some nodes only: `nodes` and `avoid`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import REFERENCE, inventory, models, planned

from llmfleet.planner.inventory.kept import kept_off, meant
from llmfleet.planner.make import make_plan
from llmfleet.planner.plan import Plan
from llmfleet.planner.what_if import ask

FLEET = """
cluster: c
nodes:
  - {name: "a-[0-2]", host: "10.0.0.[0-2]", gpus: 2 x A100-80G, nic: 100Gb/s}
  - {name: "l-[0-2]", host: "10.0.1.[0-2]", gpus: 1 x L40S, nic: 100Gb/s}
services:
  - {name: chat, model: Qwen/Qwen2.5-7B-Instruct, traffic: {rate: 2, input: {mean: 1000}, output: {mean: 200}}CHAT}
  - {name: embed, model: BAAI/bge-m3, task: embed, traffic: {rate: 20, input: {mean: 400}}EMBED}
"""


def fleet(chat: str = "", embed: str = "") -> str:
    return FLEET.replace("CHAT", chat and f", {chat}").replace("EMBED", embed and f", {embed}")


def nodes_of(plan: Plan, service: str) -> set[str]:
    return {node for i in plan.instances if i.service == service for node in i.nodes}


@pytest.mark.parametrize(
    ("rule", "may"),
    [
        ("nodes: [a-1]", {"a-1"}),
        ('nodes: ["a-[1-2]", "l-*"]', {"a-1", "a-2", "l-0", "l-1", "l-2"}),
        ('avoid: ["a-*"]', {"l-0", "l-1", "l-2"}),
        ('nodes: ["*-1"], avoid: [a-1]', {"l-1"}),
    ],
)
def test_a_service_stays_where_it_may_be(rule: str, may: set[str]) -> None:
    plan = planned(fleet(chat=rule))
    assert nodes_of(plan, "chat") <= may
    assert plan.services[0].slo_met
    assert all(f"On nodes that the inventory allows it, {rule}".replace('"', "") in i.reason
               for i in plan.instances if i.service == "chat")  # fmt: skip


def test_what_it_must_not_use_is_among_the_rejected_with_the_rule() -> None:
    plan = planned(fleet(chat='avoid: ["l-*"]', embed='avoid: ["l-*"]'))
    assert {r.node_class: r.reason for r in plan.rejected if r.service == "chat" and r.shape == "any shape"} == {
        "l": "the inventory keeps it off these nodes: avoid: [l-*]"
    }
    assert all(u.node.startswith("l-") and "no service runs here: chat: the inventory keeps it off" in u.reason
               for u in plan.unused)  # fmt: skip


def test_another_service_is_not_said_to_leave_nodes_where_it_must_not_be() -> None:
    plan = planned(fleet(chat='avoid: ["l-*"]'))
    reasons = [i.reason for i in plan.instances if i.service == "embed" and i.nodes[0].startswith("l")]
    assert reasons
    assert all("chat does not fit" not in reason for reason in reasons)


def test_parts_of_a_gpu_are_not_taken_where_a_service_must_not_be() -> None:
    text = fleet(chat="nodes: [l-0]", embed="nodes: [l-1]").replace("[0-2]", "[0-1]").replace("2 x A100", "1 x A100")
    plan = planned(text + "  - {name: other, model: Qwen/Qwen2.5-3B-Instruct, nodes: [l-0]}\n")
    assert {i.service: (i.nodes, i.gpu_share) for i in plan.instances} == {
        "chat": (("l-0",), 0.5), "embed": (("l-1",), 1.0), "other": (("l-0",), 0.5)
    }  # fmt: skip


def test_pipelines_over_unequal_nodes_leave_out_what_is_not_allowed() -> None:
    big = fleet().replace("2.5-7B", "2.5-72B").replace("2 x A100-80G", "1 x A100-40G")
    for rule, left in (("l-0", {"a-0", "a-1", "a-2", "l-1", "l-2"}), ("l-0, a-0", {"a-1", "a-2", "l-1", "l-2"})):
        kept = planned(big.replace("output: {mean: 200}}", f"output: {{mean: 200}}}}, avoid: [{rule}]"))
        assert nodes_of(kept, "chat") == left


def test_new_nodes_of_what_if_are_like_those_that_they_are_like() -> None:
    known = inventory(fleet(chat='nodes: ["a-[0-2]"]', embed="avoid: [a-2]"))
    then = ask(["+2 a", "+1 l", "+1 1 x L4"], known)
    names = [n.name for n in then.nodes]
    assert set(names) - kept_off(then.service("chat"), names) == {"a-0", "a-1", "a-2", "a-3", "a-4"}
    assert kept_off(then.service("embed"), names) == {"a-2"}


def test_more_nodes_that_a_short_service_may_use_are_advised() -> None:
    text = fleet(chat="nodes: [l-2]", embed="avoid: [l-2]").replace("rate: 2,", "rate: 40,")
    (terms,) = [re.findall(r'"(\+[^"]+)"', w) for w in planned(text).warnings if "planned again" in w]
    then = ask(terms, inventory(text))
    assert make_plan(then, models(then)).warnings == ()
    said = planned(text.replace("output: {mean: 200}}", "output: {mean: 200}}, slo: {tpot: 1ms}")).warnings
    assert "chat: no number of nodes like those that it may use would do" in said


@settings(max_examples=10, deadline=None)
@given(st.sets(st.sampled_from([f"{c}-{i}" for c in "al" for i in range(3)]), min_size=1), st.booleans())
def test_no_instance_is_where_it_must_not_be(names: set[str], avoid: bool) -> None:
    rule = f"{'avoid' if avoid else 'nodes'}: [{', '.join(sorted(names))}]"
    if avoid and len(names) == 6:
        return
    used = nodes_of(planned(fleet(chat=rule)), "chat")
    assert used
    assert used.isdisjoint(names) if avoid else used <= names


@pytest.mark.parametrize(
    ("patterns", "means"),
    [(("a-*",), ["a-1", "a-b"]), (("*",), ["a-1", "a-b", "b.a-1"]), (("b.*-1", "a-[0-1]"), ["a-1", "b.a-1"]), ((), [])],
)
def test_patterns(patterns: tuple[str, ...], means: list[str]) -> None:
    assert [name for name in ("a-1", "a-b", "b.a-1") if meant(patterns)(name)] == means


def test_reference_plan_is_the_same_where_a_rule_changes_nothing() -> None:
    open_to_all = REFERENCE.replace("    fallback: chat-lite\n", '    fallback: chat-lite\n    nodes: ["*"]\n', 1)
    assert [i.id for i in planned(open_to_all).instances] == [i.id for i in planned(REFERENCE).instances]
