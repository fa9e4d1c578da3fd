"""vLLM 0.32, started on a CPU with small models of eight families: blocks, tokens, concurrency are what it printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.types import EngineOptions, Shape
from llmfleet.planner.model import model_from_config

RUNS = json.loads((Path(__file__).parents[2] / "data" / "engine_runs" / "vllm_cpu.json").read_text())
FLAGS = ("version", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "kv_cache_memory_bytes")


def test_the_families_differ() -> None:
    assert len({run["config"]["architectures"][0] for run in RUNS}) >= 8


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['config']['model_type']}-{run['max_model_len']}")
def test_the_cache_is_what_vllm_printed(run: dict[str, Any]) -> None:
    model = model_from_config(run["config"], name="small")
    options = EngineOptions(dtype="bfloat16", **{flag: run[flag] for flag in FLAGS})
    found = estimate(model, catalog().gpu("CPU-8G"), Shape(), options).kv
    assert found
    printed = run["printed"]
    assert (found.gpu_blocks, found.block_size, found.tokens) == (
        printed["blocks"], printed["block_size"], printed["tokens"],
    )  # fmt: skip
    assert found.max_concurrency == printed["concurrency"]
