"""Every kind of mistake that a file can hold, one by one, in the words that people read."""

from __future__ import annotations

import pytest
from inventories import VALID, said, with_node, with_service

from llmfleet.planner.inventory.parse import parse

NAME_SHAPE = "expected a name of lower-case letters, digits, '.' and '-'"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{name: X, host: x}", "nodes[2].name: " + NAME_SHAPE),
        ("{name: -x, host: x}", "nodes[2].name: " + NAME_SHAPE),
        ("{name: 'x;reboot', host: x}", "nodes[2].name: " + NAME_SHAPE),
        ("{name: ../x, host: x}", "nodes[2].name: " + NAME_SHAPE),
        ('{name: "x[0-1]-", host: "x[0-1]"}', "nodes[2].name: " + NAME_SHAPE),
        ('{name: "x-[2-0]", host: x}', 'nodes[2].name: "2-0" in "x-[2-0]" ends before it starts.'),
        ('{name: "x-[0-1]", host: x}', 'nodes[2].host: stands for 1 host, but the name "x-[0-1]" for 2.'),
        ('{name: x, host: "x[0-1]"}', 'nodes[2].host: stands for 2 hosts, but the name "x" for 1.'),
        ('{name: "x[0-99999]", host: x}', 'nodes[2].name: "x[0-99999]" stands for 100,000 nodes'),
        ('{name: "x[0-19999]", host: "x[0-19999]"}', "nodes: 20,003 nodes in all; at most 20,000 are allowed."),
        ("{name: a800-1, host: x}", 'nodes[2].name: the node "a800-1" stands here a second time. First on line 4.'),
        (
            '{name: "x[1,1]", host: "x[1-2]"}',
            'nodes[2].name: the node "x1" stands here a second time. First on line 5.',
        ),
        ("{name: x, host: 10.0.0.10}", 'nodes[2].host: the host "10.0.0.10" is a node already. First on line 3.'),
        ("{name: x, host: 10.0.1.11}", 'nodes[2].host: the host "10.0.1.11" is a node already. First on line 4.'),
        ("{name: x, host: ''}", "nodes[2].host: expected a host name or an IP address"),
        ("{name: x, host: -oProxyCommand=x}", "nodes[2].host: expected a host name or an IP address"),
        ("{name: x, host: a b}", "nodes[2].host: expected a host name or an IP address"),
        ("{name: x, host: 'a;b'}", "nodes[2].host: expected a host name or an IP address"),
        ("{name: x, host: user@a}", "nodes[2].host: expected a host name or an IP address"),
        ("{name: x, host: 10.0.0.256}", 'nodes[2].host: "10.0.0.256" is no IP address.'),
        ('{name: "x[0-2]", host: "10.0.0.[254-256]"}', 'nodes[2].host: "10.0.0.256" is no IP address.'),
        ("{name: x, host: '1:2'}", 'nodes[2].host: "1:2" is no IP address.'),
        ("{name: x, host: '[::1]'}", "nodes[2].host: expected a host name or an IP address"),
        ("{name: x}", "nodes[2].host: this key is missing. Its address: a name or an IP"),
        ("{name: x, host: x, gpus: 8 x A880-80G}", '"A880-80G" is no known GPU. Nearest: A800-80G, A100-80G. See:'),
        ("{name: x, host: x, gpus: 8}", 'nodes[2].gpus: expected a count and a GPU such as "8 x A800-80G", not "8".'),
        (
            "{name: x, host: x, gpus: 1 x V100-32G, faulty: [1]}",
            "faulty[0]: there is no GPU 1: they count from 0 to 0.",
        ),
        ("{name: x, host: x, gpus: 2 x V100-32G, faulty: [1, 1]}", "nodes[2].faulty[1]: GPU 1 is listed twice."),
        ("{name: x, host: x, faulty: [-1]}", "nodes[2].faulty[0]: expected a number of at least 0"),
        ("{name: x, host: x, faulty: 3}", 'nodes[2].faulty: expected a list, not "3". Write [3].'),
        ("{name: x, host: x, exclude: maybe}", 'nodes[2].exclude: expected true or false, not "maybe".'),
        ("{name: x, host: x, access: ops}", "nodes[2].access: expected keys such as transport, user, port with their"),
        ("{name: x, host: x, access: {port: 0}}", 'nodes[2].access.port: expected a number of at least 1, not "0".'),
        ("{name: x, host: x, access: {port: 2.5}}", 'nodes[2].access.port: expected a whole number, not "2.5".'),
        ("{name: x, host: x, access: {transport: shh}}", 'ssh, openssh, local or fake, not "shh". Nearest: ssh.'),
        (
            "{name: x, host: x, access: {jump: -oX=y}}",
            "access.jump: expected a jump host such as ops@bastion.example:22",
        ),
        ("{name: x, host: x, access: {user: -l}}", "nodes[2].access.user: expected a user name"),
        ('{name: x, host: x, access: {key: "a\\nb"}}', "nodes[2].access.key: expected a path on one line"),
        ('{name: x, host: x, access: {key: "a\\0b"}}', "nodes[2].access.key: expected a path on one line"),
        (
            "{name: x, host: x, access: {password: x}}",
            "nodes[2].access.password: unknown key. Nearest: password_env, sudo_password_env.",
        ),
        ("{name: x, host: x, user: ops}", "nodes[2].user: unknown key. It belongs under access."),
        ("{name: x, host: x, runtime: {env: {1A: x}}}", "nodes[2].runtime.env.1A: expected the name of an environment"),
        (
            "{name: x, host: x, runtime: {env: {A: }}}",
            'env.A: expected text, not an empty value. For an empty value write "".',
        ),
        ("{name: x, host: x, runtime: {env: {A: [1]}}}", "nodes[2].runtime.env.A: expected text, not a list."),
        ('{name: x, host: x, runtime: {env: {A: "\\0"}}}', "nodes[2].runtime.env.A: expected one line of text"),
        ("{name: x, host: x, runtime: {versions: {vlm: 1}}}", 'expected vllm or llama.cpp, not "vlm". Nearest: vllm.'),
        ("{name: x, host: x, runtime: {versions: {vllm: new}}}", "versions.vllm: expected a version such as 0.19.1"),
        ("{name: x, host: x, runtime: {interface: -a}}", "interface: expected a network interface such as eth0"),
        ("{name: x, host: x, <<: {gpus: 1}}", "nodes[2].gpus: expected a count and a GPU"),
        ("text", 'nodes[2]: expected keys such as name, host, address with their values, not "text".'),
        ("", "nodes[2]: expected keys such as name, host, address with their values, not an empty value."),
    ],
)
def test_nodes(entry: str, expected: str) -> None:
    (line,) = said(with_node(entry))
    assert expected in line


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{name: S, model: a/b}", "services[3].name: " + NAME_SHAPE),
        (
            "{name: chat, model: a/b}",
            'services[3].name: the service "chat" stands here a second time. First on line 6.',
        ),
        ("{name: s}", "services[3].model: this key is missing. Hugging Face id"),
        ("{name: s, model: -x}", "services[3].model: expected a Hugging Face id such as BAAI/bge-m3, or a folder"),
        ("{name: s, model: [a]}", "services[3].model: expected text, not a list."),
        ("{name: s, model: a/b, task: chat}", 'services[3].task: expected generate, embed or rerank, not "chat".'),
        (
            "{name: s, model: a/b, fallback: nobody}",
            '"nobody" is no service of this file. Services: chat, chat-lite, embed, s.',
        ),
        (
            "{name: s, model: a/b, fallback: embed}",
            "services[3].fallback: embed has the task embed, s the task generate.",
        ),
        ("{name: s, model: a/b, fallback: s}", "services[3].fallback: falls back on itself: s → s."),
        ("{name: s, model: a/b, precision: [fp16, bf16, fp16]}", "services[3].precision[2]: fp16 is listed twice."),
        ("{name: s, model: a/b, precision: fp16}", 'services[3].precision: expected a list, not "fp16". Write [fp16].'),
        ("{name: s, model: a/b, rate: 6}", "services[3].rate: unknown key. It belongs under traffic."),
        ("{name: s, model: a/b, modle: 6}", "services[3].modle: unknown key. Nearest: model, nodes."),
        ("{name: s, model: a/b, zzz: 6}", "services[3].zzz: unknown key. Keys here: name, model, task, traffic,"),
        ("{name: s, model: a/b, traffic: {}}", "services[3].traffic.rate: this key is missing. Requests a second"),
        ("{name: s, model: a/b, traffic: {rate: -1}}", 'traffic.rate: expected a number of at least 0, not "-1".'),
        ("{name: s, model: a/b, traffic: {rate: nan}}", 'traffic.rate: expected a number, not "nan".'),
        ("{name: s, model: a/b, traffic: {rate: .inf}}", 'traffic.rate: expected a number, not ".inf".'),
        (
            "{name: s, model: a/b, traffic: {rate: 1e9}}",
            'traffic.rate: expected a number of at most 1000000, not "1e9".',
        ),
        ("{name: s, model: a/b, traffic: {rate: 1, input: 9}}", "traffic.input: expected keys such as mean, p50, p99"),
        (
            "{name: s, model: a/b, traffic: {rate: 1, input: {mean: 9, p99: 8}}}",
            "traffic.input.p99: 8 is below mean, 9.",
        ),
        (
            "{name: s, model: a/b, traffic: {rate: 1, output: {mean: 1, p50: 9, p99: 8}}}",
            "output.p99: 8 is below p50, 9.",
        ),
        (
            "{name: s, model: a/b, traffic: {rate: 1, input: {mean: 0}}}",
            "services[3].traffic.input.mean: a prompt has at least one token.",
        ),
        (
            "{name: s, model: a/b, traffic: {rate: 1, histogram: {input: [9, 0], output: [1], share: [[1], [1]]}}}",
            "services[3].traffic.histogram.input[1]: a prompt has at least one token.",
        ),
        ("{name: s, model: a/b, traffic: {rate: 1, shared_prefix: 60}}", 'expected a number of at most 1, not "60".'),
        ("{name: s, model: a/b, slo: {tpot: 60}}", 'slo.tpot: expected a duration of at most 10s, not "60" seconds.'),
        ("{name: s, model: a/b, slo: {percentile: 100}}", 'slo.percentile: expected a number below 100, not "100".'),
        (
            "{name: s, model: a/b, long_context: {over: 16k, max: 8k}}",
            "max: 8000 tokens leave nothing for prompts over 16000.",
        ),
        (
            "{name: s, model: a/b, engine: vlm}",
            'services[3].engine: expected vllm or llama.cpp, not "vlm". Nearest: vllm.',
        ),
        ("{name: s, model: a/b, max_concurrency: 0}", "max_concurrency: expected a number of at least 1"),
        ("{name: s, model: a/b, max_concurrency: 99999999999999999999}", "expected a number of at most 1000000"),
        (
            "{name: s, model: a/b, placement: [{nodes: []}]}",
            "placement[0]: expected nodes that one instance spans, or each of some nodes: one of the two.",
        ),
        (
            '{name: s, model: a/b, nodes: ["a800-*", "a800-[0-7]"]}',
            'services[3].nodes[1]: "a800-2" is no node of this file. Nearest: a800-',
        ),
        ('{name: s, model: a/b, avoid: ["h800-*"]}', 'services[3].avoid[0]: "h800-*" is no node of this file.'),
        ('{name: s, model: a/b, avoid: ["*"]}', "services[3].avoid: leaves the service no node with GPUs."),
        ("{name: s, model: a/b, nodes: [head]}", "services[3].nodes: leaves the service no node with GPUs."),
        ('{name: s, model: a/b, nodes: ["a-[0-1]*"]}', 'nodes[0]: "a-[0-1]*" has a range and a *; use one of them.'),
        (
            '{name: s, model: a/b, avoid: [a800-1], placement: [{nodes: [a800-1]}]}',
            'services[3].placement[0]: has the node "a800-1", against avoid: [a800-1].',
        ),
        ("{name: s, model: a/b, placement: [{nodes: [a800-7]}]}", '"a800-7" is no node of this file. Nearest: a800-'),
        (
            '{name: s, model: a/b, placement: [{each: ["a800-[8]"]}]}',
            'each[0]: "a800-8" is no node of this file.',
        ),
        ("{name: s, model: a/b, placement: [{nodes: [head]}]}", 'nodes[0]: the node "head" has no GPUs. Give it gpus'),
        (
            "{name: s, model: a/b, placement: [{nodes: [a800-0, a800-0]}]}",
            'nodes[1]: the node "a800-0" is listed twice.',
        ),
        (
            "{name: s, model: a/b, placement: [{nodes: [a800-0, a800-1], pp_partition: [1]}]}",
            "services[3].placement[0].pp_partition: gives the layers of 1 stages, but there are 2.",
        ),
        (
            "{name: s, model: a/b, placement: [{nodes: [a800-0], tp: 2, part: half}]}",
            "services[3].placement[0].part: a part of a GPU has no tp or pp above 1, and one node.",
        ),
    ],
)
def test_services(entry: str, expected: str) -> None:
    (line,) = said(with_service(entry))
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("router: {node: hed}", '9:16  router.node: "hed" is no node of this file. Nearest: head.'),
        ("router: {port: 9901}", "9:9  router.admin_port: 9901 is the port for clients already."),
        ("router: {also: [hed]}", '9:17  router.also[0]: "hed" is no node of this file. Nearest: head.'),
        ("router: {node: head, also: [head]}", '9:29  router.also[0]: the node "head" is named twice.'),
        ("router: {also: [head], bind: 10.0.0.1}", "9:30  router.bind: 10.0.0.1 is an address of one node, and"),
        ("router: {address: 'x y'}", '9:19  router.address: expected a host name or an IP address, not "x y".'),
        ("router: {bind: 0.0.0.0.0}", '9:16  router.bind: "0.0.0.0.0" is no IP address.'),
        ("policy: {objective: speed}", '9:21  policy.objective: expected goodput, cost or min-nodes, not "speed".'),
        ("policy: {headroom: 1}", '9:20  policy.headroom: expected a number below 1, not "1".'),
        ("engine_port: 70000", '9:14  engine_port: expected a number of at most 65000, not "70000".'),
        ('models_dir: "/a\\nb"', "9:13  models_dir: expected an absolute path on the node, or one that begins with ~/"),
        ("models_dir: models", "9:13  models_dir: expected an absolute path on the node, or one that begins with ~/"),
        ("runtime: {dir: ../llmfleet}", "9:16  runtime.dir: expected an absolute path on the node, or one that"),
        ("runtime: {dir: $HOME/llmfleet}", "9:16  runtime.dir: expected an absolute path on the node, or one that"),
        ("runtime: {dir: ~ops/llmfleet}", "9:16  runtime.dir: expected an absolute path on the node, or one that"),
        ("warnings: [a]", "9:1  warnings: unknown key. Keys here: cluster,"),
        ("runtime: {kind: lxc}", '9:17  runtime.kind: expected process, docker or podman, not "lxc".'),
    ],
)
def test_the_rest(text: str, expected: str) -> None:
    (line,) = said(VALID + text)
    assert line.startswith(expected)


def test_circles_of_fallbacks_are_told_once_each() -> None:
    chain = ["a: b", "b: c", "c: b", "d: e", "e: d", "f: a"]
    services = "".join(
        f"  - {{name: {name}, model: m/m, fallback: {after}}}\n" for name, after in (link.split(": ") for link in chain)
    )
    lines = said("cluster: x\nnodes: [{name: n, host: n}]\nservices:\n" + services)
    assert [line.split("  ")[1] for line in lines] == [
        "services[1].fallback: falls back on itself: b → c → b.",
        "services[3].fallback: falls back on itself: d → e → d.",
    ]


def test_a_node_whose_name_is_unreadable_may_be_any_node() -> None:
    """Then nobody can say that another name is unknown."""
    text = with_node("{name: 'x[', host: x}") + "  - {name: s, model: a/b, placement: [{nodes: [x1]}]}\n"
    (line,) = said(text)
    assert "or a range such as a800-[0-3], not" in line


def test_a_node_with_another_mistake_is_known_by_its_name() -> None:
    text = (
        with_node("{name: 'x[0-1]', host: 'x[0-1]', gpus: none}")
        + "  - {name: s, model: a/b, placement: [{nodes: [x1]}]}\n"
    )
    (line,) = said(text)
    assert "nodes[2].gpus" in line


def test_excluded_nodes_take_nothing() -> None:
    text = with_node("{name: x, host: x, gpus: 1 x V100-32G, exclude: true}")
    text += "  - {name: s, model: a/b, placement: [{nodes: [x]}]}\nrouter: {node: x}\n"
    assert [line.split("  ")[1] for line in said(text)] == [
        'services[3].placement[0].nodes[0]: the node "x" is excluded.',
        'router.node: the node "x" is excluded.',
    ]
    every = "cluster: a\nnodes: [{name: x, host: x, exclude: true}]\nservices: [{name: s, model: a/b}]\n"
    assert said(every) == ["2:8  nodes: every node is excluded."]


def test_one_machine_may_carry_nodes_that_say_so() -> None:
    lab = "{name: x, host: 10.0.0.10, runtime: {dir: ~/.other}}"
    assert parse(with_node(lab)).warnings == (
        'inventory.yaml:5:21  nodes[2].host: the host "10.0.0.10" carries another node too: '
        "GPUs that both have are counted twice. First on line 3.",
    )
    assert parse(with_node("{name: x, host: 10.0.0.10, access: {port: 2222}}")).warnings == ()
    assert parse(with_node("{name: x, host: 10.0.0.10, access: {jump: other}}")).warnings == ()
    (line,) = said(with_node('{name: "x[0-1]", host: "h[0-1]", access: {transport: local}}'))
    assert 'the host "h1" is a node already.' in line


def test_without_a_catalogue_any_gpu_passes() -> None:
    assert parse(with_node("{name: x, host: x, gpus: 8 x Z9000-1T}")).node("x").gpus == "8 x Z9000-1T"


def test_cpu_slots_need_no_catalogue() -> None:
    assert said(with_node("{name: x, host: x, gpus: 2 x CPU-4G}")) == []


def test_messages_hold_nothing_that_a_terminal_would_obey() -> None:
    (line,) = said(with_node('{name: x, host: x, "\\e[31mgpu": 1}'))
    assert "\x1b" not in line
    (line,) = said(with_node('{name: x, host: x, link: "\\e[31m\\n"}'))
    assert "\x1b" not in line
    assert "\n" not in line


def test_names_that_nobody_could_write_are_not_suggested() -> None:
    text = with_service('{name: "\\e[31m", model: a/b}') + "  - {name: t, model: a/b, fallback: nobody}\n"
    (line,) = said(text)
    assert line.startswith("9:12  services[3].name: " + NAME_SHAPE)
