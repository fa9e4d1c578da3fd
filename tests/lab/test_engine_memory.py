"""Memory budgets against the real vLLM: it starts here with small models of five families and says what it allots."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.models.files import resolve_model
from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.types import EngineOptions, Shape
from tests.lab.engines import ENGINE_ENV, EngineEnv

pytestmark = pytest.mark.lab

CACHE_INFO, MARK = Path(__file__).with_name("cache_info.py"), "CACHE "
DEADLINE = 600.0  # seconds for all of them on a machine that others keep busy; 50 on a quiet one
ENGINE_OPTIONS = ("dtype", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "kv_cache_memory_bytes")
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
# What vLLM otherwise chooses by the CPU's instructions, AVX-512 BF16 and AMX
FIXED: Mapping[str, Mapping[str, str]] = {
    "latent": {"attention_backend": "CPU_MLA"},
    "hybrid": {"mamba_ssm_cache_dtype": "float32"},
}
OPTIONS = EngineOptions(
    version="0.32.0", dtype="bfloat16", max_model_len=700, max_num_batched_tokens=192, max_num_seqs=8,
    kv_cache_memory_bytes=200_000_000,
)  # fmt: skip


Told = Mapping[str, Mapping[str, Any]]  # by family: what vLLM's metrics say of its cache


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A folder with a config.json for each family; the weights are random."""
    base = tmp_path_factory.mktemp("families")
    for family, facts in FAMILIES.items():
        (base / family).mkdir()
        (base / family / "config.json").write_text(json.dumps({**SMALL, **facts}))
    return {family: base / family for family in FAMILIES}


@pytest.fixture(scope="module")
def told(engines: EngineEnv, checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Told:
    options = {name: value for name, value in asdict(OPTIONS).items() if name in ENGINE_OPTIONS}
    asked = {str(folder): {**options, **FIXED.get(family, {})} for family, folder in checkpoints.items()}
    env = {**os.environ, **ENGINE_ENV, "VLLM_PLUGINS": "", "VLLM_CACHE_ROOT": str(tmp_path_factory.mktemp("cache"))}
    argv = [str(engines.python), str(CACHE_INFO), json.dumps(asked)]
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    lines = [json.loads(line.removeprefix(MARK)) for line in ran.stdout.splitlines() if line.startswith(MARK)]
    return {Path(line["folder"]).name: line for line in lines}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_what_vllm_allots(family: str, checkpoints: Mapping[str, Path], told: Told) -> None:
    folder, said = checkpoints[family], told[family]
    found = estimate(resolve_model(str(folder), base=folder), catalog().gpu("CPU-8G"), Shape(), OPTIONS).kv
    assert found
    assert found.gpu_blocks == int(said["num_gpu_blocks"])
    assert found.block_size == int(said["block_size"])
    assert found.tokens == int(said["kv_cache_size_tokens"])
    assert found.max_concurrency == pytest.approx(float(said["kv_cache_max_concurrency"]), rel=1e-12)
