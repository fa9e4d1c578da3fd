"""What names of checkpoints say of the model and of how it was quantized."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.planner.catalog import catalog
from llmfleet.planner.catalog.kin import Kin, assumed, kin

IDS = ("Qwen/Qwen3-32B", "google/gemma-3-27b-it", "meta-llama/Llama-3.3-70B-Instruct")


@pytest.mark.parametrize(
    ("name", "base", "precision"),
    [
        ("unsloth/Qwen3-32B", "Qwen/Qwen3-32B", ""),
        ("acme/qwen3-32b-BF16", "Qwen/Qwen3-32B", ""),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "Qwen/Qwen3-32B", "fp8"),
        ("RedHatAI/Qwen3-32B-FP8-block", "Qwen/Qwen3-32B", "fp8_per_block"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "meta-llama/Llama-3.3-70B-Instruct", "nvfp4"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "meta-llama/Llama-3.3-70B-Instruct", "nvfp4"),
        ("amd/Llama-3.3-70B-Instruct-MXFP4", "meta-llama/Llama-3.3-70B-Instruct", "mxfp4"),
        ("casperhansen/llama-3.3-70b-instruct-awq", "meta-llama/Llama-3.3-70B-Instruct", "awq"),
        ("gaunernst/gemma-3-27b-it-int4-awq", "google/gemma-3-27b-it", "awq"),
        ("cpatonn/Qwen3-32B-AWQ-4bit", "Qwen/Qwen3-32B", "awq"),
        ("acme/Qwen3-32B-GPTQ-Int4", "Qwen/Qwen3-32B", "gptq-int4"),
        ("acme/Qwen3-32B-GPTQ-Int8", "Qwen/Qwen3-32B", "gptq-int8"),
        ("Intel/Qwen3-32B-int4-AutoRound", "Qwen/Qwen3-32B", "gptq-int4"),
        ("RedHatAI/Qwen3-32B-quantized.w4a16", "Qwen/Qwen3-32B", "gptq-int4"),
        ("google/gemma-3-27b-it-qat-w4a16-ct", "google/gemma-3-27b-it", "gptq-int4"),
        ("RedHatAI/Qwen3-32B-quantized.w8a8", "Qwen/Qwen3-32B", "int8"),
        ("unsloth/gemma-3-27b-it-unsloth-bnb-4bit", "google/gemma-3-27b-it", "bitsandbytes"),
    ],
)
def test_names_that_speak_of_a_catalogued_model(name: str, base: str, precision: str) -> None:
    assert kin(name, IDS) == Kin(base, precision)


@pytest.mark.parametrize(
    "name",
    [
        "acme/Qwen3-33B-FP8",
        "acme/Qwen3-32B-tuned",
        "acme/my-Qwen3-32B-FP8",
        "acme/Qwen3-32B-GGUF",
        "Qwen/Qwen3-32b",
        "FP8",
    ],
)
def test_other_names_are_nobodys_kin(name: str) -> None:
    assert kin(name, IDS) is None


@given(st.sampled_from(IDS), st.text(st.characters(codec="ascii"), max_size=12))
def test_what_is_added_to_a_name_never_makes_it_another_model(base: str, more: str) -> None:
    found = kin(f"acme/{base.rpartition('/')[2]}-{more}", IDS)
    assert found is None or found.base == base


def test_an_assumed_model_is_the_base_with_its_projections_quantized() -> None:
    base = catalog().model("Qwen/Qwen3-32B")
    assert base is not None
    model = assumed("acme/Qwen3-32B-FP8", base, "fp8")
    assert (model.name, model.native_quantization, model.params) == ("acme/Qwen3-32B-FP8", "fp8", base.params)
    assert (assumed("acme/Qwen3-32B", base, "").layers, base.native_quantization) == (base.layers, None)


def test_every_precision_that_a_name_may_stand_for_is_known() -> None:
    from llmfleet.planner.catalog.kin import ENDINGS
    from llmfleet.planner.model.precision import METHODS

    assert {precision for _, precision in ENDINGS if precision} <= set(METHODS)
