"""Command lines of vLLM, word by word, for each release line that the planner may choose."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from command_nodes import FOLDER, node

from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.commands.vllm import rank_process
from llmfleet.launch.nodes.process import Process
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

ADDRESSES = {"a800-0": "10.0.1.10", "a800-1": "10.0.1.11", "v100-0": "10.0.2.10", "laptop": "127.0.0.1"}


def process(instance: Instance, on: Node, **more: Any) -> Process:
    names = (instance.service, instance.model)
    return engine_process(
        instance, on, folder=FOLDER, addresses=ADDRESSES, ray_address="10.0.0.10", names=names, **more
    )


def test_an_instance_on_part_of_a_node(chat: Instance) -> None:
    made = process(chat, node("a800-0"))
    assert shlex.join(made.argv) == (
        "/opt/vllm/bin/python -m vllm.entrypoints.openai.api_server --model /models/Qwen/Qwen1.5-72B-Chat "
        "--served-model-name chat Qwen/Qwen1.5-72B-Chat --host 10.0.1.10 --port 8101 --tensor-parallel-size 4 "
        "--dtype bfloat16 --max-model-len 16384 --max-num-seqs 256 --max-num-batched-tokens 8192 "
        "--kv-cache-memory-bytes 38224000000 --gpu-memory-utilization 0.93 --max-num-queued-reqs 118 "
        "--shutdown-timeout 25 --middleware hold_headers.HoldHeaders "
        "--disable-access-log-for-endpoints /health,/metrics"
    )
    assert made.env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "4,5,6,7",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "/home/ops/.llmfleet/rag/a800-0/bin",
        "TMPDIR": "/home/ops/.llmfleet/rag/a800-0/scratch/tmp",
        "VLLM_HOST_IP": "10.0.1.10",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert (made.name, made.node, made.kind) == ("chat-a800-0-1", "a800-0", "engine")
    assert made.health_url == "http://10.0.1.10:8101/health"
    assert made.stop_grace_s > 25, "vLLM's own patience ends before the supervisor's"


def test_the_last_release_for_volta_knows_no_queue_limit(chat: Instance) -> None:
    embed = replace(
        chat, id="embed-v100-0-2", service="embed", model="BAAI/bge-m3", task="embed", engine_version="0.19.1",
        nodes=("v100-0",), gpus={"v100-0": (2,)}, tp=1, dtype="fp16", max_model_len=8192, kv_cache_memory_bytes=0,
        weights_path="/models/BAAI/bge-m3", port=8102,
    )  # fmt: skip
    assert shlex.join(process(embed, node("v100-0", "4 x V100-32G")).argv) == (
        "/opt/vllm/bin/python -m vllm.entrypoints.openai.api_server --model /models/BAAI/bge-m3 "
        "--served-model-name embed BAAI/bge-m3 --host 10.0.2.10 --port 8102 --tensor-parallel-size 1 "
        "--runner pooling --dtype float16 --max-model-len 8192 --max-num-seqs 256 --max-num-batched-tokens 8192 "
        "--gpu-memory-utilization 0.93 --shutdown-timeout 25 --middleware hold_headers.HoldHeaders "
        "--disable-access-log-for-endpoints /health,/metrics"
    )


def test_an_instance_over_two_nodes_runs_in_ray(chat: Instance) -> None:
    spanning = replace(
        chat, id="big", nodes=("a800-0", "a800-1"), gpus={"a800-0": tuple(range(8)), "a800-1": tuple(range(8))},
        tp=8, pp=2, pp_partition=(41, 39), engine_version="0.32.0",
    )  # fmt: skip
    made = process(spanning, node("a800-0", interface="bond0"))
    assert made.argv[:3] == ("/opt/vllm/bin/python", f"{FOLDER.bin}/vllm_ray.py", "a800-0=8,a800-1=8")
    line = shlex.join(made.argv)
    assert "--tensor-parallel-size 8 --pipeline-parallel-size 2 --distributed-executor-backend ray" in line
    assert made.env["VLLM_PP_LAYER_PARTITION"] == "41,39"
    assert made.env["RAY_ADDRESS"] == "10.0.0.10:6379"
    assert made.env["NCCL_SOCKET_IFNAME"] == made.env["GLOO_SOCKET_IFNAME"] == "bond0"
    assert "CUDA_VISIBLE_DEVICES" not in made.env, "Ray hands the GPUs out"


def test_an_instance_over_two_nodes_without_ray(chat: Instance) -> None:
    spanning = replace(
        chat, id="big", nodes=("a800-0", "a800-1"), gpus={"a800-0": tuple(range(8)), "a800-1": tuple(range(8))},
        tp=8, pp=2, multi_node="mp",
    )  # fmt: skip
    common = (
        "--tensor-parallel-size 8 --pipeline-parallel-size 2 --distributed-executor-backend mp --dtype bfloat16 "
        "--max-model-len 16384 --max-num-seqs 256 --max-num-batched-tokens 8192 --kv-cache-memory-bytes 38224000000 "
        "--gpu-memory-utilization 0.93 --max-num-queued-reqs 118 --shutdown-timeout 25 "
        "--middleware hold_headers.HoldHeaders --disable-access-log-for-endpoints /health,/metrics"
    )
    first = process(spanning, node("a800-0", interface="bond0"))
    assert shlex.join(first.argv) == (
        f"/opt/vllm/bin/python {FOLDER.bin}/vllm_rank.py 10.0.1.10:10101 10.0.1.11 "
        "--model /models/Qwen/Qwen1.5-72B-Chat --served-model-name chat Qwen/Qwen1.5-72B-Chat "
        f"--host 10.0.1.10 --port 8101 {common} "
        "--nnodes 2 --node-rank 0 --master-addr 10.0.1.10 --master-port 9101"
    )
    assert first.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert "RAY_ADDRESS" not in first.env
    second = rank_process(spanning, 1, node("a800-1", interface="bond0"), folder=FOLDER, addresses=ADDRESSES)
    assert shlex.join(second.argv) == (
        f"/opt/vllm/bin/python {FOLDER.bin}/vllm_rank.py 10.0.1.10:10101 10.0.1.11 "
        f"--model /models/Qwen/Qwen1.5-72B-Chat {common} "
        "--nnodes 2 --node-rank 1 --master-addr 10.0.1.10 --master-port 9101"
    )
    assert (second.name, second.node, second.kind, second.health_url) == ("big-rank1", "a800-1", "rank", None)
    assert second.env["VLLM_HOST_IP"] == "10.0.1.11"
    assert second.env["GLOO_SOCKET_IFNAME"] == "bond0"


def test_options_that_are_not_the_default(chat: Instance) -> None:
    unusual = replace(chat, enforce_eager=True, kv_cache_dtype="fp8", quantization="awq", task="rerank")
    made = process(unusual, node("a800-0"))
    assert {"--enforce-eager", "--kv-cache-dtype", "fp8", "--runner", "pooling"} <= set(made.argv)
    assert "--quantization" not in made.argv, "vLLM reads it from the checkpoint and picks its best kernel"


def test_other_vendors_see_their_gpus_by_other_names(chat: Instance) -> None:
    amd = process(chat, node("a800-0", "8 x MI300X"))
    assert amd.env["HIP_VISIBLE_DEVICES"] == "4,5,6,7"
    assert "CUDA_VISIBLE_DEVICES" not in amd.env
    ascend = process(replace(chat, quantization="int8"), node("a800-0", "8 x 910B-64G"))
    assert ascend.env["ASCEND_RT_VISIBLE_DEVICES"] == "4,5,6,7"
    assert ascend.argv[ascend.argv.index("--quantization") + 1] == "ascend"


def test_cpu_slots_share_the_cores(chat: Instance) -> None:
    cpu = replace(
        chat, nodes=("laptop",), gpus={"laptop": (1,)}, tp=1, accelerator="cpu", engine_version="0.32.0", dtype="fp32",
        kv_cache_memory_bytes=3 << 30,
    )  # fmt: skip
    laptop = node("laptop", "2 x CPU-4G")
    made = process(cpu, laptop, cores=16)
    assert made.env["OMP_NUM_THREADS"] == "8"
    assert made.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "VLLM_CPU_KVCACHE_SPACE" not in made.env, "it would override the exact figure of the flag"
    assert made.argv[made.argv.index("--kv-cache-memory-bytes") + 1] == str(3 << 30)
    assert "OMP_NUM_THREADS" not in process(cpu, laptop).env
    both = process(replace(cpu, gpus={"laptop": (0, 1)}, tp=2), laptop, cores=16)
    assert both.env["OMP_NUM_THREADS"] == "8", "of each of the two ranks"
    old = process(replace(cpu, engine_version="0.19.1"), laptop)
    assert old.env["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_the_inventory_has_the_last_word_on_the_environment(chat: Instance) -> None:
    made = process(chat, node("a800-0", env={"HF_HUB_OFFLINE": "0", "NCCL_IB_HCA": "mlx5"}))
    assert (made.env["HF_HUB_OFFLINE"], made.env["NCCL_IB_HCA"]) == ("0", "mlx5")


def test_ipv6_addresses_are_bracketed_in_urls_only(chat: Instance) -> None:
    made = engine_process(
        chat, node("a800-0"), folder=FOLDER, addresses={"a800-0": "fd00::10"}, ray_address="fd00::1", names=("chat",)
    )
    assert made.argv[made.argv.index("--host") + 1] == "fd00::10"
    assert made.health_url == "http://[fd00::10]:8101/health"
