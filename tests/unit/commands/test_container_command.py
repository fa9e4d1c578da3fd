"""Engines in containers: the whole command line, for docker and podman and for each maker's GPUs."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
from command_nodes import FOLDER, node

from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.nodes.process import Process
from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import Instance

ROOT = FOLDER.root
NAME = "llmfleet-6f7e11c6-chat-a800-0-1"
VLLM_ARGS = (
    "-m vllm.entrypoints.openai.api_server --model /models/Qwen/Qwen1.5-72B-Chat --served-model-name chat "
    "--host 10.0.1.10 --port 8101 --tensor-parallel-size 4 --dtype bfloat16 --max-model-len 16384 --max-num-seqs 256 "
    "--max-num-batched-tokens 8192 --kv-cache-memory-bytes 38224000000 --gpu-memory-utilization 0.93 "
    "--max-num-queued-reqs 118 --shutdown-timeout 25 --middleware hold_headers.HoldHeaders "
    "--disable-access-log-for-endpoints /health,/metrics"
)


def process(instance: Instance, on: Node, **more: Any) -> Process:
    addresses = {"a800-0": "10.0.1.10", "a800-1": "10.0.1.11"}
    return engine_process(
        instance, on, folder=FOLDER, addresses=addresses, ray_address="10.0.0.10", names=("chat",), **more
    )


def test_vllm_with_docker(chat: Instance) -> None:
    planned = replace(chat, image="vllm/vllm-openai:v0.33.0")
    made = process(planned, node("a800-0", kind="docker", env={"HF_TOKEN_PATH": "/secret file"}))
    assert shlex.join(made.argv) == (
        f"docker run --rm --pull never --name {NAME} --network host --ipc host --gpus '\"device=4,5,6,7\"' "
        f"--volume /models/Qwen/Qwen1.5-72B-Chat:/models/Qwen/Qwen1.5-72B-Chat:ro --volume {ROOT}/bin:{ROOT}/bin:ro "
        "--env HF_HUB_OFFLINE --env HF_TOKEN_PATH --env PYTHONPATH --env VLLM_HOST_IP --env VLLM_NO_USAGE_STATS "
        f"--entrypoint python3 vllm/vllm-openai:v0.33.0 {VLLM_ARGS}"
    )
    assert made.env == {
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN_PATH": "/secret file",
        "PYTHONPATH": f"{ROOT}/bin",
        "VLLM_HOST_IP": "10.0.1.10",
        "VLLM_NO_USAGE_STATS": "1",
    }, "the container counts its GPUs from 0, and has no folder for TMPDIR"
    assert not any("secret" in word for word in made.argv), "values stay out of the process list"
    assert made.cleanup == ("docker", "rm", "--force", NAME)
    assert (made.name, made.health_url) == ("chat-a800-0-1", "http://10.0.1.10:8101/health")


def test_the_inventorys_image_comes_before_the_plans(chat: Instance) -> None:
    made = process(replace(chat, image="a"), node("a800-0", kind="podman", image="mirror.example/vllm:v0.33.0"))
    assert made.argv[:2] == ("podman", "run")
    assert "mirror.example/vllm:v0.33.0" in made.argv
    with pytest.raises(InputError, match=r"no image for vllm 0\.33\.0"):
        process(chat, node("a800-0", kind="podman"))


@pytest.mark.parametrize(
    ("gpus", "kind", "words", "env"),
    [
        ("8 x A800-80G", "podman", "--device nvidia.com/gpu=4 --device nvidia.com/gpu=5", set()),
        ("8 x MI300X", "docker", "--device /dev/kfd --device /dev/dri --group-add video", {"HIP_VISIBLE_DEVICES"}),
        ("8 x 910B2", "docker", "--device /dev/davinci4 --device /dev/davinci5 --device /dev/davinci_manager", set()),
    ],
)
def test_gpus_of_each_maker(chat: Instance, gpus: str, kind: str, words: str, env: set[str]) -> None:
    two = replace(chat, gpus={"a800-0": (4, 5)}, tp=2, image="i")
    made = process(two, node("a800-0", gpus, kind=kind))
    assert words in shlex.join(made.argv)
    assert {name for name in made.env if name.endswith("VISIBLE_DEVICES")} == env
    assert {made.argv[i + 1] for i, word in enumerate(made.argv) if word == "--env"} == set(made.env)


def test_llama_cpp_has_its_own_binary_in_its_image(chat: Instance) -> None:
    lite = replace(
        chat, engine="llama.cpp", engine_version="b11549", image="ghcr.io/ggml-org/llama.cpp:server-cuda", tp=1,
        gpus={"a800-0": (1,)}, weights_path="/models/q4_k_m.gguf", max_num_seqs=4, max_model_len=2048,
        max_num_batched_tokens=512,
    )  # fmt: skip
    made = process(lite, node("a800-0", "2 x P100-16G", kind="docker"))
    assert shlex.join(made.argv) == (
        f"docker run --rm --pull never --name {NAME} --network host --ipc host --gpus '\"device=1\"' "
        f"--volume /models/q4_k_m.gguf:/models/q4_k_m.gguf:ro --volume {ROOT}/bin:{ROOT}/bin:ro "
        "--entrypoint /app/llama-server ghcr.io/ggml-org/llama.cpp:server-cuda --model /models/q4_k_m.gguf "
        "--alias chat --host 10.0.1.10 --port 8101 --parallel 4 --ctx-size 8192 --batch-size 512 --ubatch-size 512 "
        "--cache-type-k f16 --cache-type-v f16 --n-gpu-layers 999 --fit off --metrics --no-slots"
    )
    with pytest.raises(InputError, match="no GGUF file"):
        process(replace(lite, weights_path="/models/folder"), node("a800-0", kind="docker"))


def test_cpu_slots_get_no_device(chat: Instance) -> None:
    slot = replace(chat, accelerator="cpu", gpus={"a800-0": (0,)}, tp=1, image="vllm/vllm-openai-cpu:v0.32.0")
    made = process(slot, node("a800-0", "2 x CPU-4G", kind="docker"), cores=8)
    assert "--gpus" not in made.argv
    assert made.env["OMP_NUM_THREADS"] == "4"


def test_an_instance_over_several_nodes_is_refused(chat: Instance) -> None:
    both = replace(chat, nodes=("a800-0", "a800-1"), gpus={"a800-0": (0,), "a800-1": (0,)}, pp=2, image="i")
    with pytest.raises(InputError, match="spans nodes, which containers cannot"):
        process(both, node("a800-0", kind="docker"))


def test_nodes_that_share_a_machine_have_containers_of_their_own(chat: Instance) -> None:
    one = process(replace(chat, image="i"), node("a800-0", kind="docker"))
    assert NAME in one.argv
    other = replace(FOLDER, root="/home/ops/.llmfleet/rag/a800-1")
    two = engine_process(
        replace(chat, image="i"), node("a800-0", kind="docker"), folder=other, addresses={"a800-0": "h"},
        ray_address="", names=("chat",),
    )  # fmt: skip
    assert two.cleanup[-1] != one.cleanup[-1]


def test_what_has_no_cleanup_keeps_its_digest(chat: Instance) -> None:
    """Else every engine would be restarted by the release that brought the key."""
    made = process(chat, node("a800-0"))
    assert "cleanup" not in made.spec()
    contained = process(replace(chat, image="i"), node("a800-0", kind="docker"))
    assert contained.spec()["cleanup"][:3] == ["docker", "rm", "--force"]
