"""From text to values: expansion, units, defaults; and the order and completeness of mistakes."""

from __future__ import annotations

import pytest
from inventories import NODES, SERVICES, VALID, known_gpu, problems, said, with_node

from llmfleet.planner.errors import InventoryError, UnknownNameError
from llmfleet.planner.inventory.model import Access, Inventory, Node, Placement, Runtime, Service
from llmfleet.planner.inventory.parse import parse


def test_resolves_everything() -> None:
    inventory = parse(VALID, known_gpu=known_gpu)
    assert [(node.name, node.host, node.gpus) for node in inventory.nodes] == [
        ("head", "10.0.0.10", None),
        ("a800-0", "10.0.1.10", "8 x A800-80G"),
        ("a800-1", "10.0.1.11", "8 x A800-80G"),
    ]
    assert [service.name for service in inventory.services] == ["chat", "chat-lite", "embed"]
    assert inventory.warnings == ()
    assert type(inventory) is Inventory
    assert {type(node) for node in inventory.nodes} == {Node}


def test_units_become_numbers() -> None:
    text = with_node("{name: x, host: x, gpus: 2xV100-32G, nic: 25Gb/s, price: 3.67/h, faulty: [1], exclude: yes}")
    text += (
        "  - {name: s, model: a/b, context: 16k, slo: {ttft: 2s, tpot: 60ms}, long_context: {over: 16k, max: 32Ki}}\n"
    )
    inventory = parse(text)
    node, service = inventory.node("x"), inventory.service("s")
    assert (node.gpus, node.nic, node.price, node.faulty, node.exclude) == ("2 x V100-32G", 25e9, 3.67, (1,), True)
    assert service.long_context
    assert (service.context, service.slo.ttft, service.slo.tpot) == (16_000, 2.0, 0.06)
    assert (service.long_context.over, service.long_context.max) == (16_000, 32_768)


def test_the_result_goes_through_json_and_back() -> None:
    inventory = parse(VALID)
    assert Inventory.model_validate_json(inventory.model_dump_json()) == inventory


def test_text_stays_as_written() -> None:
    inventory = parse(
        VALID + "runtime: {env: {A: 007, B: on, C: 1.10, D: ''}, versions: {vllm: 0.10}}\naccess: {user: no}"
    )
    head = inventory.node("head")
    assert head.runtime.env == {"A": "007", "B": "on", "C": "1.10", "D": ""}
    assert head.runtime.versions == {"vllm": "0.10"}
    assert head.access.user == "no"
    assert head.access.known_hosts == "~/.ssh/known_hosts"


def test_a_node_overrides_single_keys_of_the_file() -> None:
    text = with_node(
        "{name: x, host: x, access: {port: 23, jump: ~}, runtime: {env: {B: 3}, versions: {vllm: 0.19.1}}}"
    )
    text += "access: {user: ops, port: 22, jump: bastion}\nruntime: {python: /v/python, env: {A: 1, B: 2}}\n"
    inventory = parse(text)
    assert inventory.node("head").access == Access(user="ops", port=22, jump="bastion")
    assert inventory.node("head").runtime == Runtime(python="/v/python", env={"A": "1", "B": "2"})
    assert inventory.node("x").access == Access(user="ops", port=23)
    assert inventory.node("x").runtime == Runtime(
        python="/v/python", env={"A": "1", "B": "3"}, versions={"vllm": "0.19.1"}
    )


def test_a_key_without_a_value_is_left_out() -> None:
    inventory = parse(VALID + "access:\nruntime: {dir: , env: ~}\nrouter:\npolicy: {objective: null}\nengine_port:\n")
    assert inventory.node("head").runtime == Runtime()
    assert inventory.policy.objective == "goodput"
    assert inventory.engine_port == 8100


def test_aliases_stand_for_whole_values() -> None:
    text = with_node("{name: x, host: x, runtime: &volta {python: /volta/python}}")
    text = text.replace("services:", "  - {name: y, host: y, runtime: *volta}\nservices:")
    assert parse(text).node("y").runtime.python == "/volta/python"


def test_a_merge_takes_over_what_is_not_said_anew() -> None:
    text = with_node("&x {name: x, host: x, gpus: 2 x L4, link: pcie}")
    node = parse(text.replace("services:", "  - {<<: *x, name: y, host: y, gpus: 4 x L4}\nservices:")).node("y")
    assert (node.host, node.gpus, node.link) == ("y", "4 x L4", "pcie")
    listed = parse(text.replace("services:", "  - {<<: [*x], name: y, host: y}\nservices:")).node("y")
    assert (listed.gpus, listed.link) == ("2 x L4", "pcie")


def test_placements_are_values_too() -> None:
    placement = "{nodes: [a800-0, a800-1], tp: 8, pp: 2, pp_partition: [41, 39]}"
    inventory = parse(VALID + f"  - {{name: big, model: a/e, placement: [{placement}]}}\n")
    assert inventory.service("big").placement == (
        Placement(nodes=("a800-0", "a800-1"), tp=8, pp=2, pp_partition=(41, 39)),
    )


def test_names_that_nobody_knows() -> None:
    inventory = parse(VALID)
    with pytest.raises(UnknownNameError) as node:
        inventory.node("a800-2")
    assert str(node.value) == '"a800-2" is no known node. Nearest: a800-1, a800-0.'
    with pytest.raises(UnknownNameError, match='"chatt" is no known service'):
        inventory.service("chatt")


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
cluster: Rag
nodes:
  - {name: head, host: 10.0.0.10, gpu: 1 x V100-32G}
  - {name: "a800-[0-1]", host: "10.0.1.[10-12]", gpus: 8 x A880-80G, link: nvlnk}
  - {name: "p-[0-3]", host: "p-[0-3]", price: -1, faulty: [0]}
services:
  - {name: chat, model: a/b, fallback: chat-lte, task: generat, placement: [{nodes: [p-1, q-1]}]}
  - {name: chat-lite, model: a/b, slo: {ttft: 2 s, tpot: soon}, fallback: chat-lite}
polcy: {}
"""
    assert said(text) == [
        "1:10  cluster: expected a name of lower-case letters, digits, '.' and '-', at most 63 long, not \"Rag\".",
        "3:35  nodes[0].gpu: unknown key. Nearest: gpus.",
        '4:32  nodes[1].host: stands for 3 hosts, but the name "a800-[0-1]" for 2. Each node needs a host of its own.',
        '4:56  nodes[1].gpus: "A880-80G" is no known GPU. Nearest: A800-80G, A100-80G. '
        "See: llmfleet estimate --list-gpus",
        '4:76  nodes[1].link: expected nvlink, pcie or none, not "nvlnk". Nearest: nvlink.',
        '5:47  nodes[2].price: expected a price of at least 0 an hour, not "-1".',
        "5:60  nodes[2].faulty[0]: there is no GPU 0: the node has none.",
        '7:40  services[0].fallback: "chat-lte" is no service of this file. Nearest: chat-lite, chat.',
        '7:56  services[0].task: expected generate, embed or rerank, not "generat". Nearest: generate.',
        '7:86  services[0].placement[0].nodes[0]: the node "p-1" has no GPUs. '
        "Give it gpus, or CPU slots such as 2 x CPU-4G.",
        '7:91  services[0].placement[0].nodes[1]: "q-1" is no node of this file. Nearest: p-1.',
        '8:58  services[1].slo.tpot: expected a duration such as 60ms or 0.06, not "soon".',
        "8:75  services[1].fallback: falls back on itself: chat-lite → chat-lite.",
        "9:1  polcy: unknown key. Nearest: policy.",
    ]


def test_problems_know_their_place() -> None:
    with pytest.raises(InventoryError) as error:
        parse("cluster: a\nnods: []\n", "here/fleet.yaml")
    places = [(p.file, p.line, p.column, p.path) for p in error.value.problems]
    assert places == [
        ("here/fleet.yaml", 1, 1, "services"),
        ("here/fleet.yaml", 1, 1, "nodes"),
        ("here/fleet.yaml", 2, 1, "nods"),
    ]
    assert error.value.exit_code == 2
    assert str(error.value).splitlines()[2] == "here/fleet.yaml:2:1  nods: unknown key. Nearest: nodes."


def test_only_the_first_mistakes_are_listed() -> None:
    nodes = "".join(f"  - {{name: n{i}, hots: h}}\n" for i in range(1000))
    found = problems(f"cluster: a\n{SERVICES}nodes:\n{nodes}")
    assert len(found) == 201
    assert [p.line for p in found] == [*sorted(p.line for p in found[:-1]), 0]
    assert str(found[-1]) == "inventory.yaml  has more problems than these 200."


def test_ten_thousand_nodes_in_one_line() -> None:
    text = (
        f'cluster: a\nnodes: [{{name: "n[00000-09999]", host: "10.0.[0-99].[0-99]", gpus: 8 x A800-80G}}]\n{SERVICES}'
    )
    inventory = parse(text, known_gpu=known_gpu)
    assert len(inventory.nodes) == 10_000
    assert inventory.node("n09999").host == "10.0.99.99"


def test_services_and_nodes_are_independent_of_direct_construction() -> None:
    """Other modules and tests build these values themselves."""
    node = Node(name="n", host="127.0.0.1", gpus="2 x CPU-4G", access=Access(transport="local"))
    inventory = Inventory(cluster="lab", nodes=(node,), services=(Service(name="s", model="a/b"),))
    assert inventory.node("n") is node
    assert inventory == parse(
        "cluster: lab\nnodes: [{name: n, host: 127.0.0.1, gpus: 2 x CPU-4G, access: {transport: local}}]\n"
        "services: [{name: s, model: a/b}]\n"
    )


def test_the_top_of_the_file_must_be_keys() -> None:
    for text in ("just text", "[1, 2]", "null", "- a"):
        (line,) = said(text)
        assert line.startswith("1:1  expected keys such as cluster, services, nodes with their values, not")


def test_empty_lists() -> None:
    assert said(f"cluster: a\nnodes: []\n{SERVICES}") == ["2:8  nodes: expected at least one node."]
    assert said(f"cluster: a\n{NODES}services: []\n") == ["5:11  services: expected at least one service."]
    assert [line.split(":")[2] for line in said(f"cluster: a\n{NODES}services:\n")] == [
        " expected a list, not an empty value."
    ]
