from __future__ import annotations

import shlex
from dataclasses import replace

from command_nodes import FOLDER, node

from llmfleet.launch.commands.engines import engine_process
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance


def gguf(chat: Instance, **changes: object) -> Instance:
    changed = {
        "id": "lite-p100-0-1", "service": "chat-lite", "model": "Qwen/Qwen1.5-14B-Chat-GGUF", "engine": "llama.cpp",
        "engine_version": "b11549", "nodes": ("p100-0",), "gpus": {"p100-0": (1,)}, "tp": 1, "quantization": "q4_k_m",
        "kv_cache_dtype": "f16", "max_model_len": 8192, "max_num_seqs": 2, "max_num_batched_tokens": 512,
        "weights_path": "/models/qwen1_5-14b-chat-q4_k_m.gguf", "port": 8100,
    }  # fmt: skip
    return replace(chat, **{**changed, **changes})  # type: ignore[arg-type]


def line(instance: Instance, on: Node, **more: int) -> str:
    made = engine_process(
        instance, on, folder=FOLDER, addresses={"p100-0": "10.0.3.10"}, ray_address="10.0.0.10",
        names=("chat-lite", "chat"), **more,
    )  # fmt: skip
    return shlex.join(made.argv)


def test_an_old_gpu(chat: Instance) -> None:
    assert line(gguf(chat), node("p100-0", "4 x P100-16G")) == (
        "/opt/vllm/bin/python /home/ops/.llmfleet/rag/a800-0/bin/llamacpp_server.py "
        "--model /models/qwen1_5-14b-chat-q4_k_m.gguf --host 10.0.3.10 --port 8100 --slots 2 --context 8192 "
        "--batch 512 --kv-type f16 --gpu-layers all --drain 25 --name chat-lite --name chat"
    )


def test_a_llama_server_of_the_nodes_own(chat: Instance) -> None:
    built = node("p100-0", "4 x P100-16G")
    runtime = built.runtime.model_copy(update={"llama_server": "/opt/llama/llama-server"})
    own = built.model_copy(update={"runtime": runtime})
    assert line(gguf(chat), own) == (
        "/opt/llama/llama-server --model /models/qwen1_5-14b-chat-q4_k_m.gguf --alias chat-lite,chat --host 10.0.3.10 "
        "--port 8100 --parallel 2 --ctx-size 16384 --batch-size 512 --ubatch-size 512 --cache-type-k f16 "
        "--cache-type-v f16 --n-gpu-layers 999 --fit off --metrics --no-slots"
    )
    assert "--reranking" in line(gguf(chat, task="rerank"), own)


def test_a_cpu_slot_gets_its_share_of_the_cores(chat: Instance) -> None:
    made = line(gguf(chat, accelerator="cpu", task="embed"), node("p100-0", "4 x CPU-4G"), cores=8)
    assert "--gpu-layers 0 --drain 25 --task embed --threads 2 --name chat-lite" in made
    assert "--threads" not in line(gguf(chat, accelerator="cpu"), node("p100-0", "4 x CPU-4G"))


def test_it_sees_its_gpu_only(chat: Instance) -> None:
    made = engine_process(
        gguf(chat), node("p100-0", "4 x P100-16G", env={"GGML_CUDA_FORCE_MMQ": "1"}), folder=FOLDER,
        addresses={"p100-0": "10.0.3.10"}, ray_address="10.0.0.10", names=("chat-lite",),
    )  # fmt: skip
    assert made.env == {
        "CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GGML_CUDA_FORCE_MMQ": "1",
        "TMPDIR": f"{FOLDER.root}/scratch/tmp",
    }  # fmt: skip
    assert made.health_url == "http://10.0.3.10:8100/health"
