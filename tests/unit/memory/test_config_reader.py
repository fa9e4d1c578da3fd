"""config.json as people have it: complete, truncated, or wrong in any way. One clear error, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfleet.launch.models.files import read_model
from llmfleet.planner.errors import InputError, ModelError
from llmfleet.planner.model import model_from_config
from llmfleet.planner.model.reader import BUILDERS, builder

SAVED = [
    json.loads(path.read_text())["config"]
    for path in sorted((Path(__file__).parents[2] / "data" / "checkpoints").glob("*.json"))
]
LLAMA = next(c for c in SAVED if c["architectures"] == ["LlamaForCausalLM"])
QUANTIZED = {
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
    "ignore": ["lm_head", "re:.*gate$"],
    "quant_method": "compressed-tensors",
}
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.lists(st.one_of(st.integers(-2, 5), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def keys(config: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in config.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += keys(value, (*path, key))
    return found


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(config))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return copy


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_anywhere_is_a_model_or_a_model_error(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(SAVED))
    if data.draw(st.booleans()):
        config = {**config, "quantization_config": QUANTIZED}
    for _ in range(data.draw(st.integers(1, 3))):
        config = changed(config, data.draw(st.sampled_from(keys(config))), data.draw(JUNK))
    try:
        model = model_from_config(config, name="fuzzed")
    except ModelError as error:
        assert error.exit_code == 2
        assert "\n" not in error.message
    else:
        assert model.params >= 0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "config.json"
    file.write_bytes(content)
    with pytest.raises(ModelError):
        read_model(file)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_attention_heads", "4", 'num_attention_heads is "4", a string'),
        ("num_attention_heads", 0, "num_attention_heads is 0"),
        ("hidden_size", -64, "hidden_size is -64"),
        ("vocab_size", None, "vocab_size is missing"),
        ("architectures", ["BrandNewForCausalLM"], "BrandNewForCausalLM is not understood"),
        ("architectures", None, "architectures is missing"),
        ("quantization_config", {"quant_method": "magic"}, "magic is not understood"),
        ("quantization_config", {"quant_method": "gptq", "bits": "four"}, 'bits is "four"'),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
        ("torch_dtype", "int3", "torch_dtype"),
        ("layer_types", ["full_attention"], "layer_types names 1 layers"),
    ],
)
def test_the_error_names_the_key(key: str, value: Any, says: str) -> None:
    config = {**LLAMA, key: value}
    if key == "torch_dtype":
        config.pop("dtype", None)
    with pytest.raises(ModelError) as caught:
        model_from_config(config, name="wrong")
    assert says in caught.value.message


def test_a_truncated_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA)[:100])
    with pytest.raises(ModelError, match="no valid JSON"):
        read_model(file)
    with pytest.raises(InputError, match="no such file"):
        read_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        (tmp_path / "empty").mkdir()
        read_model(tmp_path / "empty")


def test_every_architecture_has_its_builder() -> None:
    assert len(BUILDERS) > 70
    assert all(builder(name) for name in BUILDERS)
