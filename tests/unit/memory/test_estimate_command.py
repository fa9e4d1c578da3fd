"""llmfleet estimate: the JSON that scripts rely on, the screen for people, and one clear line for mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmfleet.cli.app import main

PARTS = (
    "total_gib",
    "weights_gib",
    "activation_gib",
    "non_torch_gib",
    "cuda_graph_gib",
    "kv_available_gib",
    "slack_gib",
)


def answer(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert main(["estimate", *flags, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(
        capsys, "--model", "Qwen/Qwen2.5-72B-Instruct", "--gpu", "NVIDIA A800-SXM4-80GB", "--tp", "4", "--pp", "2",
        "--max-model-len", "8192", "--vllm-version", "0.19.1", "--gpu-memory-utilization", "0.9",
    )  # fmt: skip
    assert (document["fits"], document["reason"]) == (True, None)
    assert set(PARTS) <= set(document["per_gpu"])
    assert [(r["rank"], r["pp_stage"], r["tp_rank"]) for r in document["ranks"]] == [
        (i, i // 4, i % 4) for i in range(8)
    ]
    assert all(set(PARTS) <= set(rank) for rank in document["ranks"])
    cache = document["kv_cache"]
    assert cache["bytes_per_token"] == 80 / 2 * 2 * 2 * 128 * 2
    assert cache["gpu_blocks"] * cache["block_size"] == cache["tokens"]
    assert cache["max_concurrency"] == pytest.approx(cache["tokens"] / 8192, abs=0.01)
    performance = document["performance"]
    assert performance["ttft_ms_range"][0] <= performance["ttft_ms"] <= performance["ttft_ms_range"][1]
    assert performance["source"] in ("roofline", "calibrated")


def test_a_name_that_speaks_of_a_known_model_is_taken_for_it_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--gpu", "H100", "--max-model-len", "4096")
    likely = answer(capsys, "--model", "acme/Qwen3-32B-FP8-dynamic", *flags)
    asked = answer(capsys, "--model", "Qwen/Qwen3-32B", "--quantization", "fp8", *flags)
    assert likely["assumed"].startswith("acme/Qwen3-32B-FP8-dynamic is taken for Qwen/Qwen3-32B in fp8")
    assert (asked["assumed"], {**likely, "assumed": None}) == (None, asked)
    assert main(["estimate", "--model", "acme/Qwen3-32B-FP8-dynamic", *flags]) == 0
    assert "is taken for Qwen/Qwen3-32B in fp8" in capsys.readouterr().err
    assert main(["estimate", "--model", "acme/nobody-9B", *flags]) == 2


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("RedHatAI/Qwen3-14B-FP8-dynamic", "compressed-tensors"),
        ("nvidia/Qwen3.6-35B-A3B-NVFP4", "modelopt"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "gptq_marlin"),
        ("Qwen/Qwen3-14B-AWQ", "awq_marlin"),
        ("acme/Qwen3-8B-int4-AutoRound", "auto-round"),
    ],
)
def test_an_engines_name_for_how_a_checkpoint_is_kept_changes_nothing(
    model: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", model, "--gpu", "H100", "--max-model-len", "4096")
    assert answer(capsys, *flags, "--quantization", name) == answer(capsys, *flags)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("--tensor-parallel-size", "2"), ("--tp", "2")),
        (("-tp", "2"), ("--tp", "2")),
        (("--pipeline-parallel-size", "2"), ("--pp", "2")),
        (("--enable-expert-parallel", "--tp", "4"), ("--ep", "--tp", "4")),
        (("--max-model-len", "8K"), ("--max-model-len", "8192")),
        (("--max-model-len", "8k"), ("--max-model-len", "8000")),
        (("--max-num-batched-tokens", "1.5k"), ("--max-num-batched-tokens", "1500")),
    ],
)
def test_options_may_be_copied_from_the_engines_command_line(
    theirs: tuple[str, ...], ours: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", "Qwen/Qwen3-30B-A3B", "--gpu", "H100")
    assert answer(capsys, *flags, *theirs) == answer(capsys, *flags, *ours)


def test_whole_experts_need_no_even_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """vLLM itself asks for it where blocks of FP8 do not divide: Qwen3 235B on eight L40S starts with it only."""
    flags = ("--model", "Qwen/Qwen3-235B-A22B-FP8", "--gpu", "L40S", "--tp", "8", "--max-model-len", "4096")
    assert main(["estimate", *flags]) == 2
    assert "Possible are 1, 2, 4. With --ep, 8 too." in capsys.readouterr().err
    assert answer(capsys, *flags, "--ep", "--vllm-version", "0.10.2")["fits"] is True


def test_what_does_not_fit_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "--model", "Qwen/Qwen1.5-72B-Chat", "--gpu", "H100")
    assert document["fits"] is False
    assert "134.7 GiB" in document["reason"]
    assert document["performance"] is None


def test_a_file_by_any_name_on_a_card_nobody_knows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
        "_a_note": {"of": "ours"}, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "llama.txt").write_text(json.dumps(config))
    flags = (
        "--model",
        str(tmp_path / "llama.txt"),
        "--gpu",
        "custom",
        "--gpu-memory-gib",
        "40",
        "--max-model-len",
        "8192",
    )
    plain = answer(capsys, *flags)
    assert plain["per_gpu"]["total_gib"] == 40
    assert plain["per_gpu"]["weights_gib"] == pytest.approx(14.99, abs=0.01)
    eight = answer(capsys, *flags, "--quantization", "fp8", "--kv-cache-dtype", "fp8", "--enforce-eager")
    assert eight["per_gpu"]["weights_gib"] == pytest.approx(8.49, abs=0.02)
    assert eight["per_gpu"]["cuda_graph_gib"] == 0
    assert eight["kv_cache"]["bytes_per_token"] == plain["kv_cache"]["bytes_per_token"] / 2


def test_encoders_have_no_cache(capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "--model", "BAAI/bge-m3", "--gpu", "V100-32G", "--vllm-version", "0.19.1")
    assert document["fits"]
    assert document["kv_cache"]["tokens"] == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--gpu", "L4"), "a model and --gpu are needed"),
        (("Qwen/Qwen3-8B",), "a model and --gpu are needed"),
        (("Qwen/Qwen3-8B", "--model", "Qwen/Qwen3-4B", "--gpu", "L4"), "two models: Qwen/Qwen3-8B and --model Qwen/"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L5"), "Nearest: L4"),
        (("--model", "Qwen/Qwen3-8b", "--gpu", "L4"), "Qwen/Qwen3-8B"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "custom"), "--gpu-memory-gib"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--gpu-memory-gib", "-3"), "positive number"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "all", "--gpu-memory-gib", "24"), "of each GPU from the catalogue"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "all", "--calibration", "x"), "of each GPU from the catalogue"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--quantization", "q"), "Known: fp32, bf16, fp16"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--tp", "0"), "tensor parallelism is 1 or more"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--pp", "0"), "pp is 0; a whole number of 1 or more"),
        (("--model", "Qwen/Qwen2.5-7B-Instruct", "--gpu", "H100", "--tp", "8"), "does not divide 28 attention heads"),
        (("--model", "Qwen/Qwen2.5-7B-Instruct", "--gpu", "all", "--tp", "8"), "Possible are 1, 2, 4."),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--pp", "99"), "PP99 cannot cut 36 layers"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--pp", "2", "--pp-partition", "a,b"), "whole numbers"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--vllm-version", "new"), "no vLLM version"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--quantization", "q"), "no known precision"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--quantization", "compressed-tensors"), "not in how many bits"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--max-model-len", "-5"), "max_model_len is -5"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--max-model-len", "8.5"), "no whole number"),
        (("--model", "Qwen/Qwen3-8B", "--gpu", "L4", "--concurrency", "2", "--request-rate", "1"), "exclude"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *flags]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "Traceback" not in said.err + said.out


def test_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--model", "Qwen/Qwen3-8B", "--gpu", "RTX 4090"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 24
    for expected in ("exact", "estimate ±", "does not fit", "try: --max-model-len 16384", "try: --tp 2"):
        assert expected in out


def test_where_would_it_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--model", "Qwen/Qwen3-32B", "--gpu", "all", "--json"]) == 0
    rows = {row["gpu"]: row for row in json.loads(capsys.readouterr().out)["gpus"]}
    assert rows["H200"]["fits"] and not rows["T4"]["fits"]
    assert main(["estimate", "--model", "Qwen/Qwen3-32B", "--gpu", "all"]) == 0
    assert "H200" in capsys.readouterr().out
    assert main(["estimate", "--list-gpus"]) == 0
    assert "A800-80G" in capsys.readouterr().out


BF16_ON_VOLTA = "bf16 needs compute capability 8.0, V100-32G has 7.0"


@pytest.mark.parametrize(
    ("flags", "notes"),
    [
        ("--gpu V100", []),
        ("--gpu V100 --dtype bfloat16", [BF16_ON_VOLTA]),
        ("--gpu V100 --quantization fp8", ["fp8 needs compute capability 7.5, V100-32G has 7.0"]),
        ("--gpu V100 --vllm-version 0.19.0", []),
        (
            "--gpu V100 --vllm-version 0.25",
            ["vLLM 0.25.0 does not run on V100-32G: 0.19.1 is the last release built for compute capability 7.0"],
        ),
        ("--gpu P100-16G", ["vLLM needs compute capability 7.0, P100-16G has 6.0"]),
        ("--gpu P100-16G --quantization q4_k_m", []),
        ("--gpu Gaudi-2", ["no vLLM release runs on intel Gaudi-2"]),
        ("--gpu L4 --quantization bitsandbytes", []),
        ("--gpu L4 --max-model-len 1280", []),
        (
            "--gpu L4 --max-model-len 1279",
            ["a request of 1 280 tokens is longer than 1 279, which is what --max-model-len allows: "
             "the engine refuses it"],
        ),
    ],
)  # fmt: skip
def test_what_the_engine_would_not_do_is_said(
    flags: str, notes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "--model", "Qwen/Qwen3-8B", *flags.split())["notes"] == notes
    assert main(["estimate", "--model", "Qwen/Qwen3-8B", *flags.split()]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"note: {note}" in said for note in notes)
    assert said.count("note: ") == len(notes)


@pytest.mark.parametrize("option", ["--input-len", "--output-len", "--concurrency", "--request-rate", "--prefix-hit"])
@pytest.mark.parametrize("value", ["nan", "-1", "inf", "2e9"])
def test_figures_that_are_none(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--model", "Qwen/Qwen3-8B", "--gpu", "L4", option, value]) == 2
    assert option in capsys.readouterr().err
