"""The catalogue: enough, consistent, sourced, and open to a user's own entries."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.planner.catalog import Catalog, catalog
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.model.families import dense, moe
from llmfleet.planner.model.precision import known_precisions
from llmfleet.planner.model.reader import BUILDERS

FOLDER = files("llmfleet.planner.catalog")


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80G"),
        ("H100-80G", "H100-80G"),
        ("NVIDIA H100 PCIe", "H100-80G-PCIE"),
        ("RTX 4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX-4090-D"),
        ("A800-80G", "A800-80G"),
        ("NVIDIA A800-SXM4-80GB", "A800-80G"),
        ("NVIDIA A100-SXM4-40GB", "A100-40G"),
        ("NVIDIA A100 80GB PCIe", "A100-80G-PCIE"),
        ("Tesla V100-SXM2-32GB", "V100-32G"),
        ("Tesla P100-PCIE-16GB", "P100-16G"),
        ("Tesla T4", "T4"),
        ("NVIDIA L20", "L20"),
        ("NVIDIA H20", "H20-96G"),
        ("h20 96gb", "H20-96G"),
        ("RTX 3090 24GB", "RTX-3090"),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("910B", "Ascend-910B2"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX-PRO-6000-MAX-Q"),
        ("NVIDIA RTX PRO 5000 Blackwell", "RTX-PRO-5000"),
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX-4080-SUPER"),
        ("Quadro RTX 8000", "RTX-8000-Turing"),
        ("7900 XTX", "RX-7900-XTX"),
    ],
)
def test_gpus_by_the_names_that_drivers_and_people_use(spelled: str, name: str) -> None:
    assert catalog().gpu(spelled).name == name


def test_every_gpu_is_found_by_each_of_its_names() -> None:
    for gpu in catalog().gpus:
        assert {catalog().gpu(name).name for name in (gpu.name, *gpu.aliases)} == {gpu.name}


def test_enough_of_everything() -> None:
    names = {gpu.name for gpu in catalog().gpus}
    assert len(names) >= 45
    assert len(catalog().models) >= 80
    assert names >= {
        "P100-16G",
        "A800-80G",
        "H800-80G",
        "H20-96G",
        "L20",
        "RTX-4090-D",
        "MI210",
        "MI355X",
        "B300",
        "Gaudi-3",
    }
    tasks = {model.task for name in catalog().models if (model := catalog().model(name))}
    assert tasks == {"generate", "embed", "rerank"}


def test_gpu_figures_make_sense() -> None:
    for gpu in catalog().gpus:
        reported = gpu.memory_mib / 1024
        assert 0.9 * reported <= gpu.visible_gib <= reported + 0.01, gpu.name
        assert gpu.tflops["fp16"] > 0 and gpu.bandwidth_gbs > 0
        assert ("bf16" in gpu.tflops) == (gpu.vendor != "nvidia" or (gpu.compute_capability or (0, 0)) >= (8, 0)), (
            gpu.name
        )
        assert (gpu.compute_capability is not None) == (gpu.vendor == "nvidia")
        assert gpu.link_group == 1 or gpu.link_gbs > 0


def test_each_figure_has_its_source() -> None:
    raw = yaml.safe_load((FOLDER / "gpus.yaml").read_text())
    for name, entry in raw["gpus"].items():
        assert {"memory_mib", "visible_gib", "rest"} <= set(entry["source"]), name
        assert set(entry["source"].values()) <= set(raw["sources"]), name
        assert ("efficiency" in entry) == ("efficiency" in entry["source"]), name
    assert all(entry["source"] for entry in yaml.safe_load((FOLDER / "engines.yaml").read_text())["releases"])
    assert all(entry["source"] for entry in yaml.safe_load((FOLDER / "quantization.yaml").read_text()).values())
    for file in (FOLDER / "models").iterdir():
        assert all(entry["source"].startswith("https://") for entry in yaml.safe_load(file.read_text()).values()), (
            file.name
        )


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalog().gpu("A880-80G")
    assert caught.value.nearest[0] == "A800-80G"
    assert caught.value.exit_code == 2


@given(st.text(max_size=30))
def test_any_name_is_a_gpu_or_one_error(name: str) -> None:
    try:
        assert catalog().gpu(name).visible_gib > 0
    except InputError as error:
        assert error.message


def test_cpu_slots() -> None:
    assert catalog().gpu("CPU-4G").visible_gib == 4
    assert catalog().gpu("cpu-1.5gib").memory_mib == 1536
    with pytest.raises(InputError):
        catalog().gpu("CPU-0G")


def test_old_cards_get_the_last_release_built_for_them() -> None:
    def fits(version: str, low: tuple[int, int]) -> bool:
        return any(
            r.version == version and (r.min_capability or (0, 0)) <= low <= (r.max_capability or (99, 0))
            for r in catalog().releases
            if r.engine == "vllm" and "nvidia" in r.vendors
        )

    assert fits("0.33.0", (8, 0)) and fits("0.33.0", (7, 5)) and not fits("0.33.0", (7, 0))
    assert fits("0.19.1", (7, 0)) and not fits("0.19.1", (6, 0))


def test_precisions_of_releases_are_known() -> None:
    for release in catalog().releases:
        for precision in release.precisions:
            assert catalog().quantization(precision).engine in ("vllm", release.engine)
            assert precision in known_precisions()


def test_models_match_published_totals() -> None:
    published = {
        "meta-llama/Llama-2-70b-hf": 68976648192,
        "meta-llama/Llama-3.1-8B": 8030261248,
        "Qwen/Qwen2.5-72B": 72706203648,
        "Qwen/Qwen3-235B-A22B": 235093634560,
        "mistralai/Mixtral-8x7B-v0.1": 46702792704,
        "deepseek-ai/DeepSeek-V3": 671026419200,
        "openai/gpt-oss-120b": 116829156672,
        "google/gemma-3-27b-it": 27432406640,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8292166656,
        "meta-llama/Llama-4-Scout-17B-16E-Instruct": 108641793536,
        "Qwen/Qwen3.5-27B": 27356728560,
        "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 8888227328,
        "Qwen/Qwen3-Embedding-8B": 7567295488,
        "MiniMaxAI/MiniMax-M2.5": 228689764864,
    }
    for name, total in published.items():
        model = catalog().model(name)
        assert model and model.params == total, name


def test_every_model_can_be_planned() -> None:
    for name in catalog().models:
        model = catalog().model(name)
        assert model
        assert 0 < model.active_params <= model.params
        assert model.weight_bytes("bf16") >= 2 * model.params * 0.99
        assert model.weight_bytes("q4_k_m") < model.weight_bytes("fp16")
        assert model.tp_problem(1) is None
        assert model.encoder_only == (
            model.kv_bytes_per_token() == 0 and not any(layer.caches for layer in model.layers)
        )


def test_tables_of_families_and_builders_agree() -> None:
    assert {name for name, entry in BUILDERS.items() if entry == "dense:build"} == set(dense.FAMILIES)
    assert {name for name, entry in BUILDERS.items() if entry == "moe:build"} == set(moe.FAMILIES)


OWN = """
gpus:
  Lab-Card:
    {vendor: nvidia, arch: ampere, compute_capability: "8.6", memory_mib: 16384, bandwidth_gbs: 500,
     tflops: {fp16: 50, bf16: 50}}
models:
  acme/tiny:
    architecture: LlamaForCausalLM
    config: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, vocab_size: 100, max_position_embeddings: 9}
  acme/tiny-chat: {like: acme/tiny, config: {vocab_size: 200}}
"""


def test_a_users_own_file_adds_to_ours() -> None:
    mine = catalog().extended(OWN, "mine.yaml")
    assert mine.gpu("lab card").visible_gib == pytest.approx(15.54)
    assert mine.gpu("H100").name == "H100-80G"
    tiny, chat = mine.model("acme/tiny"), mine.model("acme/tiny-chat")
    assert tiny and chat and chat.vocab_size == 200 and chat.hidden_size == tiny.hidden_size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu: {}", "gpu is no section"),
        ("gpus: {X: {vendor: nvidia}}", "arch is missing"),
        ("gpus: {X: {vendor: nvidia, arch: a, memory_mib: 1024, bandwidth_gbs: -1, tflops: {}}}", "positive number"),
        ("gpus: {X: {vendor: nvidia, archs: a}}", "archs is no known key"),
        ("gpus: [1]", "keys with values"),
        ("gpus: {X", "no valid YAML"),
        ("models: {acme/x: {like: acme/x}}", "acme/x"),
    ],
)
def test_mistakes_in_it_are_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        mine = catalog().extended(text, "mine.yaml")
        assert mine.gpus
        mine.model("acme/x")
    assert says in caught.value.message and "mine.yaml" in caught.value.message


def test_extending_leaves_ours_alone() -> None:
    Catalog({"gpus": {}}).gpu("H100")
    with pytest.raises(UnknownNameError):
        catalog().gpu("lab card")


@pytest.mark.parametrize(("name", "method"), [("int4", "gptq-int4"), ("w8a8", "int8"), ("bf16", "bf16"), ("x", "x")])
def test_other_names_of_a_precision_stand_for_it(name: str, method: str) -> None:
    assert catalog().canonical(name) == method
