"""From what machines said to an inventory, and to what is different in one that is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.launch.discover.found import Found, bandwidth, found, names
from llmfleet.launch.discover.groups import groups, host_range, name_range
from llmfleet.launch.discover.hosts import Machine, machines
from llmfleet.launch.discover.merge import merged
from llmfleet.launch.discover.written import comment, inventory_text
from llmfleet.launch.nodes.facts import DiskFacts, InterfaceFacts, NodeFacts, RuntimeFacts
from llmfleet.launch.nodes.gpu_tools import GpuFacts, parse_npu_smi
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Access
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.inventory.ranges import expand

DATA = Path(__file__).parents[2] / "data"
NV8 = (DATA / "topology" / "8x-a800-nv8.txt").read_text()


def facts(name: str = "a800-0", gpu: str | None = "NVIDIA A800-SXM4-80GB", count: int = 8, **changes: Any) -> NodeFacts:
    cards = tuple(GpuFacts(i, gpu, 81920, 4, "535.161.08") for i in range(count)) if gpu else ()
    base = NodeFacts(
        hostname=f"{name}.example", kernel="6", machine="x86_64", python="3.10.12", cpus=128,
        memory_total=1007 << 30, memory_available=1000 << 30, shm=1, epoch=0, user="ops", uid=1, home="/home/ops",
        interface="eth0", disks={"/home/ops": DiskFacts(1 << 40, 400 << 30), "/models": DiskFacts(1 << 43, 3500 << 30)},
        gpus=cards, gpu_error=None if gpu else "[Errno 2] No such file or directory: 'nvidia-smi'",
        interfaces={"lo": InterfaceFacts(65536, None), "eth0": InterfaceFacts(1500, 25000)},
        runtimes={"docker": RuntimeFacts("27.1.1", None), "podman": RuntimeFacts(None, "not found")},
        topology=NV8 if gpu else "", cuda="12.2" if gpu else None,
    )  # fmt: skip
    return replace(base, **changes)


def machine(host: str, **access: Any) -> Machine:
    return Machine(host, host, Access(**{"user": "ops", **access}))


def fleet() -> tuple[Found, ...]:
    said = [
        (machine("10.0.0.10"), facts("head", None)),
        (machine("10.0.1.11"), facts("a800-1")),
        (machine("10.0.1.10"), facts("a800-0", memory_total=503 << 30)),
        (machine("10.0.4.1"), facts("old", "Tesla P100-PCIE-16GB", 2, topology="")),
    ]
    called = names(said)
    return tuple(found(m, called[m.asked], f) for m, f in said)


GOLDEN = """\
# Written by `llmfleet init` from what the machines said of themselves. Change what you know better.
# Run it again to see what is different since; --merge takes that over. Every key: docs/inventory.md
# Next: fill in `services`, then llmfleet plan, llmfleet doctor, llmfleet up.

cluster: rag
access: {user: ops}   # how to reach the nodes; any node may override single keys
runtime:
  python: python3   # of the environment that has the engine; a node whose engine lies elsewhere has its own `runtime`

nodes:
  # 128 cores, 1007 GiB memory
  # 3500 GiB free for /models, 400 GiB free for /home/ops
  # Python 3.10.12, docker 27.1.1
  - name: head
    host: 10.0.0.10
    nic: 25Gb/s
  # NVIDIA A800-SXM4-80GB, 81920 MiB, driver 535.161.08, CUDA 12.2
  # 128 cores, 503 GiB memory | 128 cores, 1007 GiB memory
  # 3500 GiB free for /models, 400 GiB free for /home/ops
  # Python 3.10.12, docker 27.1.1
  - name: a800-[0-1]
    host: 10.0.1.[10-11]
    gpus: 8 x A800-80G
    link: nvlink
    nic: 25Gb/s
"""


def test_the_text_is_an_inventory_with_comments() -> None:
    text = inventory_text(fleet(), cluster="rag", access=Access(user="ops"), python="python3")
    assert text.startswith(GOLDEN)
    inventory = parse(text, nodes_only=True)
    assert [(n.name, n.host, n.gpus, n.link, n.nic) for n in inventory.nodes] == [
        ("head", "10.0.0.10", None, None, 25e9),
        ("a800-0", "10.0.1.10", "8 x A800-80G", "nvlink", 25e9),
        ("a800-1", "10.0.1.11", "8 x A800-80G", "nvlink", 25e9),
        ("old", "10.0.4.1", "2 x P100-16G", None, 25e9),
    ]


def test_the_commented_service_is_one() -> None:
    text = inventory_text(fleet(), cluster="rag", access=Access(), python="/opt/vllm/bin/python")
    head, _, example = text.partition("services: []")
    service = "\n".join(line.removeprefix("#") for line in example.splitlines()[1:])
    inventory = parse(f"{head}services:\n{service}\n")
    assert [s.name for s in inventory.services] == ["chat"]
    assert inventory.nodes[0].runtime.python == "/opt/vllm/bin/python"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (facts("x", "NVIDIA Z9000"), "gpus: 8 x NVIDIA Z9000 (81920 MiB) is not in the catalogue"),
        (
            facts("x", gpus=(GpuFacts(0, "NVIDIA L4", 1, 0, "d"), GpuFacts(1, "Tesla T4", 1, 0, "d"))),
            "1 x NVIDIA L4 and 1 x Tesla T4: the GPUs of one node must be alike",
        ),
        (facts("x", None, gpu_error="NVIDIA-SMI has failed"), "no GPU: NVIDIA-SMI has failed"),
    ],
)
def test_what_a_person_must_decide_stands_there_as_a_comment(said: NodeFacts, problem: str) -> None:
    made = found(machine("10.0.0.1"), "x", said)
    assert made.gpus is None
    assert made.problems[0].startswith(problem)
    text = inventory_text([made], cluster="c", access=Access(), python="python3")
    assert f"\n    # {problem}" in text
    assert parse(text, nodes_only=True).nodes[0].gpus is None


def test_other_makers_gpus_go_through_the_catalogue() -> None:
    npus = parse_npu_smi((DATA / "npu_smi" / "2x-910b3.txt").read_text())
    assert found(machine("h"), "h", facts(gpus=npus, topology="", vendor="ascend")).gpus == "2 x Ascend-910B3"


def test_the_interface_is_named_where_there_are_several() -> None:
    several = {
        "eth0": InterfaceFacts(1500, 25000),
        "ib0": InterfaceFacts(4092, 200000),
        "docker0": InterfaceFacts(1, 9),
    }
    assert found(machine("h"), "h", facts(interfaces=several)).interface == "eth0"
    assert found(machine("h"), "h", facts()).interface is None


def test_names_are_the_machines_own_where_they_differ() -> None:
    twins = [
        (machine("10.0.0.1"), facts("node")),
        (machine("gpu-2.example"), facts("node")),
        (machine("c"), facts("C_1")),
    ]
    assert names(twins) == {"10.0.0.1": "n-10-0-0-1", "gpu-2.example": "gpu-2", "c": "c-1"}
    assert names([(machine("10.0.0.9"), facts("localhost"))]) == {"10.0.0.9": "n-10-0-0-9"}


def test_speeds_are_written_as_people_do() -> None:
    assert [bandwidth(m) for m in (25000, 1000, 2500)] == ["25Gb/s", "1Gb/s", "2500Mb/s"]


def test_what_a_machine_says_cannot_leave_its_comment() -> None:
    evil = "x\nservices: [{name: evil}]\u2028#"
    text = inventory_text([found(machine("h"), "h", facts(gpu=evil))], cluster="c", access=Access(), python="python3")
    assert "\nservices: [{" not in text
    assert parse(text, nodes_only=True).services == ()
    assert comment("a\nb") == "# a?b"


@st.composite
def fleets(draw: st.DrawFn) -> Sequence[Found]:
    stems = st.sampled_from(["a", "gpu-", "r1-n"])
    base = fleet()[0]
    made: dict[str, Found] = {}
    for _ in range(draw(st.integers(1, 12))):
        width, number, kind = draw(st.integers(0, 3)), draw(st.integers(0, 120)), draw(stems)
        name = f"{kind}{str(number).zfill(width)}"
        host = draw(st.sampled_from([f"10.0.1.{number}", f"{name}.example", f"h{number * 7}"]))
        if host not in {m.host for m in made.values()}:
            made[name] = replace(base, name=name, host=host, gpus=draw(st.sampled_from([None, "1 x L4"])))
    return list(made.values())


@given(fleets())
def test_ranges_stand_for_exactly_the_machines(machines: Sequence[Found]) -> None:
    seen = []
    for members in groups(machines):
        pairs = list(zip(expand(name_range(members)), expand(host_range(members)), strict=True))
        assert pairs == [(m.name, m.host) for m in members]
        assert len({m.gpus for m in members}) == 1
        seen += pairs
    assert sorted(seen) == sorted((m.name, m.host) for m in machines)


def test_padded_numbers_stay_in_one_range() -> None:
    base = fleet()[0]
    many = [replace(base, name=f"n{i:02}", host=f"n{i:02}.example") for i in range(8, 13)]
    (members,) = groups(many)
    assert (name_range(members), host_range(members)) == ("n[08-12]", "n[08-12].example")


class TestHosts:
    def test_ranges_are_expanded_and_each_host_is_asked_once(self) -> None:
        asked = machines(["10.0.0.[1-2]", "10.0.0.2", "x.example"], Access(user="ops"))
        assert [m.asked for m in asked] == ["10.0.0.1", "10.0.0.2", "x.example"]
        assert asked[0].access.user == "ops"

    @pytest.mark.parametrize("host", ["", "a b", "ops@h", "-oProxyCommand=x", "h[1-", "$(reboot)", "10.0.0.1;ls"])
    def test_what_is_no_host_is_refused(self, host: str) -> None:
        with pytest.raises(InputError):
            machines([host], Access())

    def test_nobody_was_named(self) -> None:
        with pytest.raises(InputError, match="no host was named"):
            machines([], Access())

    def test_ssh_config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr("llmfleet.launch.transport.ssh_config.SYSTEM", tmp_path / "none")
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "config").write_text(
            "Host github.com\n  User git\nHost *\n  User anna\nHost big\n  HostName 10.0.1.10\n  Port 2222\n"
            "  IdentityFile /keys/big\n  ProxyJump bastion.example\nHost gpu-*\n  User x\nHost small.example\n"
        )
        big, small = machines([], Access(key="/keys/mine"), from_ssh_config=True)
        assert (big.asked, big.host) == ("big", "10.0.1.10")
        assert (big.access.user, big.access.port, big.access.jump) == ("anna", 2222, "bastion.example")
        assert big.access.key == "/keys/mine", "what was named wins"
        assert (small.host, small.access) == ("small.example", Access(key="/keys/mine"))


WRITTEN = """\
# ours
cluster: rag
access: {user: ops}
nodes:
  - name: head   # the old one
    host: 10.0.0.10
    nic: 25Gb/s
  - {name: "a800-[0-1]", host: "10.0.1.[10-11]", gpus: 4 x A800-80G}   # in the hall
  - name: old
    host: 10.0.4.1
    gpus: 2 x Tesla P100-PCIE-16GB
    # no link

# what they serve
services: [{name: chat, model: m}]
"""


class TestMerge:
    def merge(self, text: str, *found: Found) -> Any:
        return merged(text, found, "inventory.yaml")

    def test_nothing_is_different_in_what_was_just_written(self) -> None:
        text = inventory_text(fleet(), cluster="rag", access=Access(user="ops"), python="python3")
        assert not self.merge(text, *fleet()).changed

    def test_differences_are_edited_in_place(self) -> None:
        made = self.merge(WRITTEN, *fleet())
        changes = [line for line in made.diff("f").splitlines()[2:] if line[0] in "+-"]
        assert changes == [
            '-  - {name: "a800-[0-1]", host: "10.0.1.[10-11]", gpus: 4 x A800-80G}   # in the hall',
            '+  - {name: "a800-[0-1]", host: "10.0.1.[10-11]", '
            "link: nvlink, nic: 25Gb/s, gpus: 8 x A800-80G}   # in the hall",
            "+    nic: 25Gb/s",
        ], "the P100 under another of its names is the same"
        assert made.by_hand == ()
        assert not self.merge(made.text, *fleet()).changed, "taken over, nothing differs"

    def test_new_machines_come_after_the_last_entry(self) -> None:
        new = replace(fleet()[3], name="old", host="10.0.4.2")
        made = self.merge(WRITTEN, new)
        assert re.search(
            r"gpus: 2 x Tesla P100-PCIE-16GB\n  # .*\n(  # .*\n)+  - name: old-x\n    host: 10.0.4.2\n", made.text
        )
        assert "    # no link\n\n# what they serve\n" in made.text
        assert parse(made.text).node("old-x").gpus == "2 x P100-16G"

    def test_a_list_in_one_line_stays_one(self) -> None:
        text = "cluster: x\nnodes: [{name: a, host: 10.0.0.1}]   # few\nservices: [{name: c, model: m}]\n"
        made = self.merge(text, fleet()[3])
        assert made.text.splitlines()[1].startswith("nodes: [{name: a, host: 10.0.0.1}, {name: old, host: 10.0.4.1,")
        assert made.text.splitlines()[1].endswith("]   # few")

    def test_one_of_a_range_is_left_to_a_person(self) -> None:
        (first,) = [m for m in fleet() if m.name == "a800-0"]
        made = self.merge(
            WRITTEN.replace("4 x A800", "8 x A800"), replace(first, gpus="7 x A800-80G", link=None, nic=None)
        )
        assert not made.changed
        assert made.by_hand == ("a800-0: gpus is 7 x A800-80G, but not of its whole range",)

    def test_machines_that_were_not_asked_stay_as_they_are(self) -> None:
        assert not self.merge(WRITTEN, replace(fleet()[0], nic="25Gb/s")).changed

    def test_no_nodes_is_no_inventory(self) -> None:
        with pytest.raises(InputError):
            self.merge("cluster: x\nservices: [{name: c, model: m}]\n")
