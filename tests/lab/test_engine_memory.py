"""Memory budgets against the real vLLM: it starts here with small models of five families and says what it allots."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from llmfleet.launch.models.files import resolve_model
from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.types import EngineOptions, Shape
from tests.lab.engines import ENGINE_ENV, EngineEnv

pytestmark = pytest.mark.lab

DEADLINE = 240.0  # seconds for one start on a machine that others keep busy; 15 on a quiet one
SMALL: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "grouped-query": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 5},
    "latent": {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "kv_lora_rank": 32, "q_lora_rank": 48,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16, "num_key_value_heads": 4,
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
        "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False,
    },
    "experts": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 8,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "norm_topk_prob": True, "num_key_value_heads": 1,
    },
    "window": {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": 7,
        "sliding_window": 64, "sliding_window_pattern": 3, "query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "hybrid": {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_value_head_dim": 32, "partial_rotary_factor": 0.5, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "num_hidden_layers": 8,
    },
}  # fmt: skip
FIXED: Mapping[str, tuple[str, ...]] = {  # what vLLM otherwise chooses by the CPU's instructions, AVX-512 BF16 and AMX
    "latent": ("--attention-backend", "CPU_MLA"),
    "hybrid": ("--mamba-ssm-cache-dtype", "float32"),
}
OPTIONS = EngineOptions(
    version="0.32.0", dtype="bfloat16", max_model_len=700, max_num_batched_tokens=192, max_num_seqs=8,
    kv_cache_memory_bytes=200_000_000,
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_what_vllm_allots(family: str, engines: EngineEnv, tmp_path: Path) -> None:
    folder = tmp_path / family
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SMALL, **FAMILIES[family]}))
    found = estimate(resolve_model(str(folder), base=tmp_path), catalog().gpu("CPU-8G"), Shape(), OPTIONS).kv
    assert found
    with started(engines, folder, tmp_path / "log", FIXED.get(family, ())) as said:
        assert found.gpu_blocks == int(said["num_gpu_blocks"])
        assert found.block_size == int(said["block_size"])
        assert found.tokens == int(said["kv_cache_size_tokens"])
        assert found.max_concurrency == pytest.approx(float(said["kv_cache_max_concurrency"]), rel=1e-12)


@contextmanager
def started(engines: EngineEnv, folder: Path, log: Path, fixed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """A vLLM on the loopback with random weights; what its metrics say of its cache."""
    port = free_port()
    cache = engines.folder / "families-cache"  # what vLLM finds out about these classes, 10 s each time without
    env = {**os.environ, **ENGINE_ENV, "VLLM_CACHE_ROOT": str(cache), "VLLM_PLUGINS": ""}
    argv = [*command(engines, folder, port), *fixed]
    with (
        log.open("wb") as out,
        subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent) as engine,
    ):
        try:
            yield cache_info(engine, port, log)
        finally:
            engine.terminate()
            try:
                engine.wait(20)
            except subprocess.TimeoutExpired:
                engine.kill()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def command(engines: EngineEnv, folder: Path, port: int) -> list[str]:
    return [
        str(engines.python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--host", "127.0.0.1", "--port", str(port), "--load-format", "dummy", "--skip-tokenizer-init",
        "--enforce-eager", "--dtype", str(OPTIONS.dtype), "--max-model-len", str(OPTIONS.max_model_len),
        "--max-num-batched-tokens", str(OPTIONS.max_num_batched_tokens), "--max-num-seqs", str(OPTIONS.max_num_seqs),
        "--kv-cache-memory-bytes", str(OPTIONS.kv_cache_memory_bytes),
    ]  # fmt: skip


def cache_info(engine: subprocess.Popen[bytes], port: int, log: Path) -> dict[str, str]:
    """The labels of vllm:cache_config_info, as soon as there are any."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        assert engine.poll() is None, f"vLLM ended: {log.read_text(errors='replace')[-3000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                page = answer.read().decode()
        except (URLError, TimeoutError, ConnectionError):
            page = ""
        info = re.search(r"^vllm:cache_config_info\{(.*)\}", page, re.MULTILINE)
        if info:
            return dict(re.findall(r'(\w+)="([^"]*)"', info[1]))
        time.sleep(0.2)
    raise AssertionError(f"vLLM said nothing in {DEADLINE:.0f} s: {log.read_text(errors='replace')[-3000:]}")
