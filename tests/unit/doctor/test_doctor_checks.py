"""Each check on a healthy node, and on nodes that are ill in one respect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from doctored import ADDRESS, MODEL, ROOT, gpu, instance, node, user, view
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.launch.doctor import files, gpus, machine, network, software
from llmfleet.launch.doctor.checks import CHECKS, node_results
from llmfleet.launch.doctor.result import CheckResult
from llmfleet.launch.doctor.view import View
from llmfleet.launch.nodes.facts import BootFacts, DiskFacts, PortFacts, RuntimeFacts, WeightsFacts
from llmfleet.launch.nodes.probe import ProcessStatus
from llmfleet.launch.phases.facts import clock_skew
from llmfleet.planner.plan import Budget, Instance

SPANNING = {"nodes": ("a800-0", "a800-1"), "gpus": {"a800-0": (0, 1), "a800-1": (0, 1)}, "pp": 2}
ONE = {"a800-0": "0.33.0", "a800-1": "0.33.0"}
HALF = Budget(39.5, 20, 2, 1, 1, 13, 2.5)
RUNNING = (ProcessStatus("chat-a800-0-0", "healthy", "engine"),)
DOCKER = {"docker": RuntimeFacts("27.1.1", None)}


def contained(runtimes: Mapping[str, RuntimeFacts], of: Instance | None = None, **changes: Any) -> View:
    """A node whose engines run in docker."""
    one = of or instance(image="vllm:1")
    return view({"runtimes": runtimes, **changes}, node=node(kind="docker"), instances=(one,))


def at_boot(
    *, systemd: bool = True, systemctl: bool = True, linger: bool = True, uid: int = 1000, **keys: Any
) -> View:
    """A node that is to start its engines again after a reboot."""
    boot = BootFacts(systemd, systemctl, linger, "/usr/bin/python3", "/usr/bin")
    return view({"boot": boot, "uid": uid}, node=node(**(keys or {"at_boot": True})))


def modes(*of: str, **others: Any) -> View:
    return view({"gpus": tuple(gpu(index, compute_mode=mode) for index, mode in enumerate(of))}, **others)


def test_a_compute_mode_that_forbids_nothing_is_not_worth_a_word() -> None:
    assert gpus.compute_mode(modes("Default", "[N/A]")) is None
    apart = (instance(gpus={"a800-0": (0,)}, tp=1),)
    assert gpus.compute_mode(modes("Default", "Prohibited", instances=apart)) is None, "nobody is to run there"
    assert gpus.compute_mode(modes("Exclusive_Process", "Default", instances=())) is None
    shut = gpus.compute_mode(modes("Exclusive_Process", "Exclusive_Process"))
    assert shut is not None and "nvidia-smi -c 0 -i 0,1." in shut.hint
    mps = {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps"}
    assert gpus.compute_mode(modes("Exclusive_Process", "Exclusive_Process", node=node(env=mps))) is None
    faulty = node().model_copy(update={"faulty": (1,)})
    assert gpus.compute_mode(modes("Default", "Prohibited", instances=(), node=faulty)) is None


def test_what_starts_at_boot_matters_only_where_it_is_asked_for() -> None:
    asked = at_boot(systemd=False)
    assert "at boot" in [r.name for r in node_results(asked)]
    assert machine.at_boot(view({"boot": asked.facts.boot})) is None


def test_a_healthy_node_passes_every_check_that_concerns_it() -> None:
    results = node_results(view())
    assert {r.status for r in results} == {"ok"}
    assert [r.name for r in results] == [
        "python", "clock", "gpus", "gpu memory", "driver", "engine", "weights", "disk", "address", "ports",
        "shared memory", "open files",
    ]  # fmt: skip


def test_without_a_plan_only_the_node_itself_is_checked() -> None:
    bare = view(instances=(), ports=frozenset())
    assert [r.name for r in node_results(bare)] == [
        "python", "clock", "gpus", "gpu memory", "driver", "engine", "disk", "address", "open files"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "ill", "status", "words"),
    [
        (machine.python, view({"python": "3.6.9"}), "fail", ["3.6.9", "3.7"]),
        (machine.clock, view({"clock_skew_s": 3601.0}), "warn", ["3601 s ahead"]),
        (machine.clock, view({"clock_skew_s": -30.0}), "warn", ["30 s behind"]),
        (machine.clock, view({"clock_skew_s": 1.5}), "ok", []),
        (machine.memory, view({"memory_total": 4 << 30}, node=node("2 x CPU-4G")), "warn", ["4.0 GiB"]),
        (machine.memory, view(node=node("2 x CPU-4G")), "ok", ["512.0 GiB"]),
        (machine.shared_memory, view({"shm_free": 64 << 20}), "fail", ["64 MiB", "160 MiB"]),
        (machine.shared_memory, view({"shm_free": 64 << 20, "processes": RUNNING}), "ok", []),
        (machine.shared_memory, view({"shm_free": 300 << 20}, needs_ray=True), "fail", ["350 MiB"]),
        (machine.open_files, view({"nofile": (1024, 4096)}), "warn", ["4096"]),
        (machine.open_files, view({"nofile": (256, 512)}), "fail", ["512"]),
        (machine.open_files, view({"nofile": (1024, -1)}), "ok", ["unlimited"]),
        (machine.at_boot, at_boot(), "ok", ["by systemd, for ops"]),
        (machine.at_boot, at_boot(uid=0, linger=False), "ok", ["by systemd"]),
        (machine.at_boot, at_boot(linger=False), "fail", ["units of ops start when ops logs in"]),
        (machine.at_boot, at_boot(systemd=False), "fail", ["systemd is not its process 1"]),
        (machine.at_boot, at_boot(systemd=False, systemctl=False, uid=0), "fail", ["it has no systemctl"]),
        (machine.at_boot, at_boot(supervisor="systemd"), "ok", ["by systemd, for ops"]),
        (machine.at_boot, at_boot(supervisor="systemd", linger=False), "fail", ["`supervisor: systemd`", "end with"]),
        (machine.at_boot, at_boot(supervisor="systemd", systemd=False), "fail", ["systemd is not its process 1"]),
        (gpus.gpus, view({"gpus": (gpu(0),)}), "fail", ["2 x A800-80G", "the node has 1"]),
        (gpus.gpus, view({"gpus": (), "gpu_error": "no driver"}), "fail", ["no driver"]),
        (gpus.gpus, view({"gpus": (), "gpu_error": "no driver"}, node=node("8 x 910B2")), "warn", ["no driver"]),
        (gpus.gpus, view({"gpus": (gpu(0), gpu(1, name="NVIDIA H20"))}), "fail", ["A800-80G", "NVIDIA H20"]),
        (gpus.gpu_memory, view({"gpus": (gpu(0), gpu(1, used_mib=61204)), "gpu_users": (user(),)}), "fail",
         ["GPU 1 has 20716 MiB free", "chat-a800-0-0 needs 75776", "python 4711 of anna (61200 MiB)"]),
        (gpus.gpu_memory, view({"gpus": (gpu(0, used_mib=30000), gpu(1))}, instances=(
            instance(id="chat", gpus={"a800-0": (0,)}, budget=HALF),
            instance(id="embed", gpus={"a800-0": (0,)}, budget=HALF),
         )), "fail", ["GPU 0 has 51920 MiB free", "chat and embed need 75776"]),
        (gpus.gpu_memory, view({"gpus": (gpu(0), gpu(1, used_mib=61204)), "processes": RUNNING}), "ok", []),
        (gpus.gpu_memory, view({"gpus": (gpu(0), gpu(1, used_mib=61204)), "gpu_users": (user(user=None, name=None),)},
                               instances=()), "warn", ["GPU 1 has 61204 MiB in use", "process 4711 (61200 MiB)"]),
        (gpus.gpu_memory, view({"gpus": (gpu(0), gpu(1, used_mib=61204)),
                                "gpu_users": (user(marker=f"{ROOT}/chat"),)}, instances=()), "ok", []),
        (gpus.compute_mode, modes("Prohibited", "Default"), "fail", ["GPU 0 allows no process"]),
        (gpus.compute_mode, modes("Exclusive_Process", "Exclusive_Process"), "warn",
         ["GPUs 0, 1 allow one process", "reach into each other's"]),
        (gpus.compute_mode, modes("Default", "Exclusive_Process", instances=(
            instance(gpus={"a800-0": (1,)}, tp=1), instance(id="embed-0", gpus={"a800-0": (1,)}, tp=1))), "fail",
         ["GPU 1 allows one process", "chat-a800-0-0 and embed-0"]),
        (gpus.compute_mode, modes("Exclusive_Process", "Default", instances=(instance(gpus={"a800-0": (0,)}, tp=1),)),
         "ok", []),
        (gpus.compute_mode, modes("Default", "Prohibited", instances=()), "fail", ["GPU 1 allows no process"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="535.161.08"),)}), "fail", ["535.161.08", "CUDA 13", "580.65"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="580.65.06"),)}), "ok", ["CUDA 13"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="580.42.01"),)}), "fail", ["580.65"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="535.161.08"),)},
                           node=node(env={"VLLM_ENABLE_CUDA_COMPATIBILITY": "1"})), "warn", ["580.65"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="535.161.08"),), "versions": {"vllm": "0.29.0+cu129"}}), "ok",
         ["CUDA 12"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="470.256.02"),), "versions": {"vllm": "0.19.1"}}), "fail",
         ["525.60"]),
        (gpus.driver, view({"gpus": (gpu(0, driver="470.256.02"),), "versions": {}}), "ok", ["470.256.02"]),
        (software.engine, view({"engine_python": None, "engine_error": "No such file"}), "fail", ["No such file"]),
        (software.engine, view({"versions": {}}), "fail", ["vllm is not installed"]),
        (software.engine, view({"versions": {"vllm": "0.32.0"}}), "warn", ["0.32.0", "0.33.0"]),
        (software.engine, view({"versions": {"vllm": "0.33.0+cu129"}}), "ok", ["0.33.0"]),
        (software.engine, view({"versions": {}}, instances=()), "warn", ["no engine"]),
        (software.container, contained({}), "fail", ["docker: it does not answer"]),
        (software.container, contained({"docker": RuntimeFacts(None, "permission denied")}), "fail",
         ["permission denied"]),
        (software.container, contained(DOCKER), "fail", ["docker does not have the image vllm:1"]),
        (software.container, contained(DOCKER, images={"vllm:1": True}), "ok", ["docker 27.1.1, vllm:1"]),
        (software.container, contained(DOCKER, instance(image=None)), "fail", ["there is no image for vllm"]),
        (software.container, contained(DOCKER, instance(**SPANNING)), "fail", ["spans nodes"]),
        (software.ray, view({"versions": {}}, needs_ray=True), "fail", ["not installed"]),
        (software.engine, view(instances=(instance(**SPANNING),), vllm=dict(ONE, **{"a800-1": "0.32.0"})), "fail",
         ["differs between the nodes of an instance", "a800-0 0.33.0", "a800-1 0.32.0"]),
        (software.engine, view(instances=(instance(**SPANNING),), vllm=ONE), "ok", ["0.33.0"]),
        (software.ray, view(needs_ray=True, head="head", ray={"a800-0": "2.60.0", "head": "2.58.0"}), "fail",
         ["a800-0 2.60.0, head 2.58.0"]),
        (software.ray, view(needs_ray=True, head="head", ray={"a800-0": "2.60.0", "head": None}), "ok", ["2.60.0"]),
        (software.ray, view(needs_ray=True, head="head", pythons={"a800-0": "3.12.3", "head": "3.12.4"}), "fail",
         ["Python differs", "a800-0 3.12.3, head 3.12.4"]),
        (software.ray, view(needs_ray=True, head="head", pythons={"a800-0": "3.12.3", "head": None}), "ok", []),
        (software.ray_serve, view(on_serve=True, serve_llm=True), "ok", ["2.60.0"]),
        (software.ray_serve, view({"import_error": "Traceback\nModuleNotFoundError: No module named 'fastapi'\n"},
                                  on_serve=True), "fail", ["/opt/vllm/bin/python", "No module named 'fastapi'"]),
        (software.ray_serve, view({"versions": {"ray": "2.60.0"}}, on_serve=True, serve_llm=True, head="a800-0"),
         "fail", ["vLLM is not installed", "on the head"]),
        (software.ray_serve, view({"versions": {"ray": "2.60.0"}}, on_serve=True, head="a800-0"), "ok", []),
        (software.ray_serve, view({"versions": {"ray": "2.58.1"}}, on_serve=True), "warn", ["2.58.1", "2.60.0"]),
        (software.router, view({"envoy": None}, routers=("h20-0", "a800-0")), "fail", ["envoy"]),
        (software.router, view(routers=("a800-0",)), "ok", ["1.40.0"]),
        (files.weights, view({"weights": {}}), "fail", [MODEL]),
        (files.weights, view({"weights": {MODEL: WeightsFacts("folder", 1, False)}}), "fail", ["config.json"]),
        (files.weights, view({"weights": {MODEL: WeightsFacts("folder", 1, True, False)}},
                             instances=(instance(quantization="awq"),)), "fail", [MODEL, "awq", "not quantized"]),
        (files.weights, view({"weights": {MODEL: WeightsFacts("folder", 1, True, True)}},
                             instances=(instance(quantization="awq"),)), "ok", []),
        (files.weights, view({"weights": {MODEL: WeightsFacts("folder", 1, True, None)}},
                             instances=(instance(quantization="awq"),)), "ok", []),
        (files.disk, view(source_bytes={f"{ROOT}/models/chat": 950 << 30}), "fail", ["900.0 GiB free", "950.0 GiB"]),
        (files.disk, view({"weights": {f"{ROOT}/models/chat": WeightsFacts("folder", 900 << 30, True)}},
                          source_bytes={f"{ROOT}/models/chat": 950 << 30}), "ok", []),
        (files.disk, view({"disks": {ROOT: DiskFacts(1 << 40, 1 << 20)}}), "warn", ["0.0 GiB free"]),
        (files.disk, view({"disks": {ROOT: DiskFacts(1 << 40, 4096)}}), "fail", ["is full"]),
        (network.address, view({"binds": False}), "fail", [ADDRESS]),
        (network.address, view({"binds": False}, instances=()), "warn", [ADDRESS]),
        (network.interface, view(node=node(interface="ib0")), "fail", ["ib0", "eth0, lo"]),
        (network.interface, view({"routes": {"10.0.1.11": None}}, instances=(instance(**SPANNING),),
                                 names={"10.0.1.11": "a800-1"}), "fail", ["no route to a800-1"]),
        (network.interface, view({"routes": {"10.0.1.11": "172.17.0.1"}}, instances=(instance(**SPANNING),),
                                 names={"10.0.1.11": "a800-1"}), "warn", ["a800-1 from 172.17.0.1"]),
        (network.interface, view({"routes": {"10.0.1.11": ADDRESS}}, instances=(instance(**SPANNING),),
                                 mtus={"a800-0": 1500, "a800-1": 9000}), "warn", ["MTU 1500", "a800-1 9000"]),
        (network.interface, view({"routes": {"10.0.1.11": ADDRESS}}, instances=(instance(**SPANNING),),
                                 names={"10.0.1.11": "a800-1"}), "ok", ["eth0, reaches a800-1"]),
        (network.ports, view({"ports": (PortFacts(8100, 12, "python3", None),)}), "fail",
         ["port 8100 is taken by python3 (process 12)"]),
        (network.ports, view({"ports": (PortFacts(8100, None, None, None),)}), "fail", ["another user's process"]),
        (network.ports, view({"ports": (PortFacts(8100, 12, "python3", f"{ROOT}/chat"),)}), "ok", []),
        (network.ports, contained(DOCKER, processes=RUNNING, ports=(PortFacts(8100, None, None, None),)), "ok", []),
        (network.ports, contained(DOCKER, ports=(PortFacts(8100, None, None, None),)), "fail", ["another user's"]),
        (network.ports, view({"ports": (PortFacts(9, 12, "python3", None),)}), "ok", []),
        (network.proxies, view({"proxies": ("HTTPS_PROXY",), "no_proxy": "localhost"}), "warn",
         ["HTTPS_PROXY", ADDRESS]),
        (network.proxies, view({"proxies": ("HTTPS_PROXY",), "no_proxy": "localhost,10.0.0.0/8"}), "ok", []),
    ],
)  # fmt: skip
def test_a_check(check: Callable[[View], CheckResult | None], ill: View, status: str, words: list[str]) -> None:
    result = check(ill)
    assert result is not None
    assert result.status == status, result.detail
    assert [w for w in words if w not in result.detail] == []
    assert result.why
    assert bool(result.hint) == (status != "ok"), "a finding says what to do, and nothing else does"


def test_every_check_can_fail_or_warn() -> None:
    """The table above has an ill node for each."""
    table = test_a_check.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {check for check, _, status, _ in table if status != "ok"} == set(CHECKS)


def test_gpus_of_other_makers_are_asked_by_their_own_tool() -> None:
    npu = view({"gpus": (), "gpu_error": "not found"}, node=node("8 x Ascend-910B2"))
    assert "npu-smi" in (gpus.gpus(npu) or CheckResult("", "ok", "")).hint


@pytest.mark.parametrize(
    ("no_proxy", "host", "spared"),
    [
        ("", "10.0.0.1", False),
        ("*", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        (".example", "a.example", True),
        ("example", "a.example", True),
        ("example", "badexample", False),
        ("localhost, 10.0.0.0/24", "10.0.0.7", True),
        ("10.0.0.0/24", "10.0.1.7", False),
        ("A.Example", "a.example", True),
    ],
)
def test_no_proxy(no_proxy: str, host: str, spared: bool) -> None:
    assert network.spared(host, no_proxy) is spared


@given(st.floats(0, 1e9), st.floats(0, 60), st.floats(-1e6, 1e6))
def test_only_a_skew_that_is_certain_counts(asked: float, took: float, ahead: float) -> None:
    """A clock that was read between question and answer and is off by `ahead` is never said to be off by more."""
    skew = clock_skew(asked + took / 2 + ahead, asked, asked + took)
    assert abs(skew) <= abs(ahead) + 1e-6
    assert skew == 0 or (skew > 0) == (ahead > 0)
