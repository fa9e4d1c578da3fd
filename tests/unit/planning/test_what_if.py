"""Terms of what-if, from their text to the inventory that they make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.planning.fleets import LAB, REFERENCE, inventory, models, reference

from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Inventory, Service
from llmfleet.planner.make import make_plan
from llmfleet.planner.what_if import ask

FLEET = inventory(REFERENCE)


def names(fleet: Inventory, stem: str) -> list[str]:
    return [n.name for n in fleet.nodes if n.name.startswith(stem)]


def chat(*terms: str) -> Service:
    return ask(terms, FLEET).service("chat")


@pytest.mark.parametrize(
    ("term", "stem", "expected"),
    [
        ("+2 h20", "h20", ["h20-0", "h20-1", "h20-2", "h20-3"]),
        ("+1 H20-96G", "h20", ["h20-0", "h20-1", "h20-2"]),
        ("+ 1 h20-0", "h20", ["h20-0", "h20-1", "h20-2"]),
        ("+1 nodes h20", "h20", ["h20-0", "h20-1", "h20-2"]),
        ("-1 h20", "h20", ["h20-0"]),
        ("-2 h20", "h20", []),
        ("-node h20-0", "h20", ["h20-1"]),
        ("-node v100-[0-2]", "v100", ["v100-3"]),
        ("+2 4 x L20", "l20", ["l20-0", "l20-1"]),
    ],
)
def test_nodes_come_and_go(term: str, stem: str, expected: list[str]):
    assert names(ask([term], FLEET), stem) == expected


def test_new_nodes_are_like_those_of_their_kind_and_have_an_address_of_their_own():
    fleet = ask(["-gpu h20-1:0", "+2 h20"], FLEET)
    old, new = fleet.node("h20-0"), fleet.node("h20-3")
    assert (new.gpus, new.link, new.nic, new.runtime, new.faulty) == (old.gpus, old.link, old.nic, old.runtime, ())
    assert len({n.host for n in fleet.nodes}) == len(fleet.nodes)


def test_a_name_that_was_there_is_not_used_again():
    assert names(ask(["-node h20-1", "+1 h20"], FLEET), "h20") == ["h20-0", "h20-2"]
    padded = inventory(REFERENCE.replace("h20-[0-1]", "h[08-09]"))
    assert names(ask(["+2 H20-96G"], padded), "h") == ["head", "h08", "h09", "h10", "h11"]


def test_faulty_gpus():
    fleet = ask(["-gpu a800-0:3", "-gpu a800-[0-1]: 1,3"], FLEET)
    assert [fleet.node(n).faulty for n in ("a800-0", "a800-1")] == [(1, 3), (1, 3)]


@pytest.mark.parametrize(
    ("term", "read", "expected"),
    [
        ("chat.rate=2x", lambda s: s.traffic.rate, 2.4),
        ("chat.traffic.rate = 6", lambda s: s.traffic.rate, 6),
        ("chat.rate=0.5 ×", lambda s: s.traffic.rate, 0.6),
        ("chat.peak=2", lambda s: s.traffic.peak, 2),
        ("chat.input=2x", lambda s: (s.traffic.input.mean, s.traffic.input.p99), (8000, 40000)),
        ("chat.input=8k", lambda s: (s.traffic.input.mean, s.traffic.input.p99), (8000, 40000)),
        ("chat.input={mean: 5k, p99: 30k}", lambda s: (s.traffic.input.mean, s.traffic.input.p99), (5000, 30000)),
        ("chat.input.mean=8k", lambda s: (s.traffic.input.mean, s.traffic.input.p99), (8000, 20000)),
        ("chat.slo.ttft=1s", lambda s: s.slo.ttft, 1.0),
        ("chat.tpot=60ms", lambda s: s.slo.tpot, 0.06),
        ("chat.ttft=", lambda s: s.slo.ttft, None),
        ("chat.precision=[fp8]", lambda s: s.precision, ("fp8",)),
        ("chat.fallback=null", lambda s: s.fallback, None),
        ("chat.model=Qwen/Qwen2.5-32B-Instruct", lambda s: s.model, "Qwen/Qwen2.5-32B-Instruct"),
        ("chat.long_context.over=8k", lambda s: s.long_context.over, 8000),
    ],
)
def test_keys_of_a_service(term: str, read: Any, expected: object):
    assert read(chat(term)) == pytest.approx(expected) if isinstance(expected, float) else read(chat(term)) == expected


def test_another_model_has_no_files_of_the_old_one():
    fleet = inventory(REFERENCE.replace("fallback: chat-lite\n", "fallback: chat-lite\n    path: /w/old\n"))
    assert ask(["chat.model=Qwen/Qwen2.5-32B-Instruct"], fleet).service("chat").path is None
    assert ask(["chat.rate=2x"], fleet).service("chat").path == "/w/old"


def test_policy_and_services():
    assert ask(["policy.redundancy=1"], FLEET).policy.redundancy == 1
    fleet = ask(["-service chat-lite"], FLEET)
    assert [s.name for s in fleet.services] == ["chat", "embed", "rerank"]
    assert fleet.service("chat").fallback is None
    assert FLEET.service("chat").fallback == "chat-lite"


def test_a_router_goes_with_its_node():
    router = FLEET.router.model_copy(update={"node": "head", "also": ("a800-0", "h20-0")})
    fleet = FLEET.model_copy(update={"router": router})
    assert ask(["-node a800-0"], fleet).router.also == ("h20-0",)
    left = ask(["-node head"], fleet).router
    assert (left.node, left.also) == (None, ("a800-0", "h20-0"))


def test_a_fixed_instance_goes_with_its_node():
    lab = inventory(LAB)
    assert [p.nodes for p in ask(["-node h4"], lab).service("chat").placement] == [("h1",), ("h2",)]
    with pytest.raises(InputError, match="fixes chat to what is gone, and to nothing else"):
        ask(["-node h[1-3]"], lab)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("chat.rat=2x", '"rat" is no key of chat. Nearest: rate.'),
        ("chta.rate=2x", '"chta" is neither a service nor "policy". Nearest: chat.'),
        ("chat.slo.ttt=1s", "chat.slo.ttt: unknown key. Nearest: ttft."),
        ("chat.rate=-3", "chat.traffic.rate: expected a number of at least 0"),
        ("chat.rate=fast", 'chat.traffic.rate: expected a number, not "fast".'),
        ("embed.ttft=2x", "embed.slo.ttft is not set: there is nothing to multiply."),
        ("chat.precision=2x", "chat.precision is a list: there is nothing to multiply."),
        ("chat.model.size=3", "chat.model: expected text"),
        ("chat=3", "which key of chat? Write chat.KEY=VALUE."),
        ("chat.name=talk", "a service keeps its name"),
        ("chat.rate=[", '"[" is no value.'),
        ("policy.objectve=cost", '"objectve" is no key of policy. Nearest: objective.'),
        ("policy.objective=costs", "policy.objective: expected goodput, cost or min-nodes"),
        ("chat.fallback=embed", "chat.fallback: embed has the task embed, chat the task generate."),
        ("chat-lite.fallback=chat", "falls back on itself: chat → chat-lite → chat."),
        ("chat.long_context={over: 16k, max: 8k}", "8000 tokens leave nothing for prompts over 16000."),
        ("-service chatt", "is no known service. Nearest: chat"),
        ("+2 h21", '"h21" is no kind of node of this inventory: a800, h20, v100, p100. Nearest: h20'),
        ("+2 L20", "Another kind of node: 8 x L20"),
        ("+2 8 x H101", '"H101" is no known GPU.'),
        ("+0 h20", "expected 1 to 20,000 nodes, not 0."),
        ("-3 h20", "h20 has 2 nodes."),
        ("-node a800-2", 'there is no node "a800-2". Nearest: a800-'),
        ("-node a800", 'That is a kind of node: "-2 a800" takes all of them.'),
        ("-node a800-[0-", "the brackets"),
        ("-gpu a800-0", "expected a node and GPU numbers such as a800-0:3"),
        ("-gpu a800-0:8", "a800-0 has no GPU 8: its GPUs are 0 to 7."),
        ("-gpu head:0", "head has no GPU 0: it has no GPUs."),
        ("-h20", "expected a count and a kind of node after the sign, or what goes: -node NAME"),
        ("+h20", "expected a count and a kind of node after the sign."),
        ("chat.traffic.trace=day.csv", "traces are read with the inventory"),
        ("chat.traffic={trace: day.csv}", "traces are read with the inventory"),
        ("-node a800-9", 'there is no node "a800-9"'),
        ("-9 h20", "h20 has 2 nodes."),
        ("more", "is no term: it starts with neither + nor -, and has no =."),
        ("", "is no term"),
    ],
)
def test_terms_that_cannot_be(term: str, said: str):
    with pytest.raises(InputError) as caught:
        ask([term], FLEET)
    assert said in caught.value.message
    assert '"+2 h20"' in caught.value.hint


def test_a_fleet_without_nodes_is_no_question():
    with pytest.raises(InputError, match="no node is left"):
        ask([f"-node {n.name}" for n in FLEET.nodes], FLEET)


def test_all_bad_terms_at_once():
    with pytest.raises(InputError) as caught:
        ask(["chat.rat=2x", "+1 h20", "foo"], FLEET)
    assert [line.split('"')[1] for line in caught.value.message.splitlines()] == ["chat.rat=2x", "foo"]


@given(st.lists(st.text("+-.=:[]{}x0123456789 anodegpuchtrslf", max_size=24), max_size=3))
def test_no_text_does_more_than_be_refused(terms: list[str]):
    try:
        fleet = ask(terms, FLEET)
    except InputError:
        return
    assert {type(n.name) for n in fleet.nodes} <= {str}


def test_no_question_no_difference():
    assert ask([], FLEET) == FLEET
    assert make_plan(ask(["chat.rate=1x"], FLEET), models(FLEET)).instances == reference().instances
