from __future__ import annotations

import shlex
from pathlib import Path

from command_nodes import FOLDER, node

from llmfleet.launch.commands.ray import (
    SILENT_NODE,
    Managed,
    gpu_resources,
    parse_ray_status,
    ray_head_process,
    ray_status_command,
    ray_worker_process,
)
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.scratch import LONGEST, scratch_folder

DATA = Path(__file__).parents[2] / "data" / "ray"


def test_a_head_that_only_coordinates() -> None:
    made = ray_head_process(node("head", None), address="10.0.0.10", folder=NodeFolder("/root/.llmfleet/rag/head"))
    assert shlex.join(made.argv) == (
        "/opt/vllm/bin/python -m ray.scripts.scripts start --block --head --include-dashboard=false "
        "--port 6379 --dashboard-port 6389 --node-manager-port 6380 --object-manager-port 6381 "
        "--metrics-export-port 6382 --runtime-env-agent-port 6383 --dashboard-agent-grpc-port 6384 "
        "--dashboard-agent-listen-port 6385 --min-worker-port 10100 --max-worker-port 10399 "
        "--node-ip-address 10.0.0.10 --num-cpus 1 --num-gpus 0 "
        """--resources '{"llmfleet_node_head": 1}' --object-store-memory 200000000 """
        "--temp-dir /root/.llmfleet/rag/head/scratch --disable-usage-stats"
    )
    assert (made.name, made.kind, made.health_url) == ("ray-head", "ray-head", None)
    assert made.env == {
        **SILENT_NODE,
        "RAY_ADDRESS": "10.0.0.10:6379",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "VLLM_HOST_IP": "10.0.0.10",
        "TMPDIR": "/root/.llmfleet/rag/head/scratch/tmp",
    }


def test_a_worker_brings_its_planned_gpus_and_its_own_interface() -> None:
    made = ray_worker_process(
        node("a800-1", interface="bond0"), address="10.0.1.11", folder=FOLDER, head_address="10.0.0.10",
        managed=Managed((0, 1, 2, 3)),
    )  # fmt: skip
    line = shlex.join(made.argv)
    assert "start --block --address 10.0.0.10:6379 --node-manager-port 6390" in line
    assert """--num-gpus 4 --resources '{"llmfleet_node_a800-1": 1}'""" in line
    assert made.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert made.env["GLOO_SOCKET_IFNAME"] == "bond0"
    assert made.env["VLLM_HOST_IP"] == "10.0.1.11"


def test_the_kind_of_gpu_is_a_resource() -> None:
    a800 = node("a800-1")
    managed = Managed((2, 3), resources=gpu_resources(a800, (2, 3)))
    made = ray_worker_process(
        a800, address="10.0.1.11", folder=FOLDER, head_address="10.0.0.10", managed=managed
    )  # fmt: skip
    assert """--resources '{"llmfleet_node_a800-1": 1, "llmfleet_gpu_A800-80G": 2}'""" in shlex.join(made.argv)


def test_ascend_devices_are_a_resource_of_another_name() -> None:
    made = ray_worker_process(
        node("npu-0", "8 x 910B-64G"), address="10.0.4.1", folder=FOLDER, head_address="10.0.0.10",
        managed=Managed((0, 1)),
    )  # fmt: skip
    assert """--num-gpus 0 --resources '{"llmfleet_node_npu-0": 1, "NPU": 2}'""" in shlex.join(made.argv)
    assert made.env["ASCEND_RT_VISIBLE_DEVICES"] == "0,1"


def test_cpu_slots_count_as_gpus_for_ray_and_hide_none() -> None:
    made = ray_worker_process(
        node("laptop", "2 x CPU-4G"), address="127.0.0.2", folder=FOLDER, head_address="127.0.0.2",
        managed=Managed((0, 1), "cpu"),
    )  # fmt: skip
    assert "--num-gpus 2" in shlex.join(made.argv)
    assert not [name for name in made.env if name.endswith("VISIBLE_DEVICES")]


def test_head_and_worker_may_share_a_machine() -> None:
    head = ray_head_process(node("n0"), address="10.0.1.10", folder=FOLDER)
    worker = ray_worker_process(
        node("n0"), address="10.0.1.10", folder=FOLDER, head_address="10.0.1.10", managed=Managed((0,))
    )
    flags = [f for f in head.argv if f.endswith("-port") and f in worker.argv]
    ports = [p.argv[p.argv.index(flag) + 1] for p in (head, worker) for flag in flags]
    assert len(flags) == 8
    assert len(set(ports)) == len(ports)


def test_socket_paths_stay_below_their_limit() -> None:
    deep = NodeFolder("/home/operations/.llmfleet/production-rag-berlin/a800-nvlink-0")
    assert scratch_folder(deep).startswith("/tmp/llmfleet-")
    assert scratch_folder(deep) != scratch_folder(NodeFolder(deep.root + "1"))
    assert len(scratch_folder(deep)) <= LONGEST
    assert scratch_folder(NodeFolder("/root/.llmfleet/rag/n0")) == "/root/.llmfleet/rag/n0/scratch"


def test_nodes_are_read_from_ray_status() -> None:
    assert parse_ray_status((DATA / "status-idle.txt").read_text()) == ("head", "w1")
    assert parse_ray_status((DATA / "status-used.txt").read_text()) == ("head", "n0.rack-2", "w1")
    assert parse_ray_status("No cluster status.") == ()


def test_ray_status_is_asked_of_the_head() -> None:
    assert shlex.join(ray_status_command(node("head"), "10.0.0.10:6379")) == (
        "/opt/vllm/bin/python -m ray.scripts.scripts status --address 10.0.0.10:6379"
    )
