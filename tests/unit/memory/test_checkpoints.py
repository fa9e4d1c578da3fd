"""Small checkpoints that transformers wrote, as their configs and headers: arithmetic and file agree to the byte."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.models.files import read_model
from llmfleet.planner.errors import ModelError
from llmfleet.planner.model import model_from_config
from llmfleet.planner.model.types import stored_bytes

SAVED = sorted((Path(__file__).parents[2] / "data" / "checkpoints").glob("*.json"))
ELEMENT = {"BF16": 2, "F32": 4, "F16": 2}


def written(folder: Path, saved: dict[str, Any]) -> Path:
    """A real safetensors file of the recorded tensors; its numbers are a hole in the file."""
    header, at = {}, 0
    for name, (dtype, shape) in saved["tensors"].items():
        size = prod(shape) * ELEMENT[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    (folder / "config.json").write_text(json.dumps(saved["config"]))
    return folder


@pytest.fixture(params=SAVED, ids=lambda path: path.stem)
def saved(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


def test_config_alone_counts_every_element(saved: dict[str, Any]) -> None:
    model = model_from_config(saved["config"], name="small")
    assert model.params == sum(prod(shape) for _, shape in saved["tensors"].values())


def test_headers_give_the_bytes_of_the_file(saved: dict[str, Any], tmp_path: Path) -> None:
    model = read_model(written(tmp_path, saved))
    exact = sum(prod(shape) * ELEMENT[dtype] for dtype, shape in saved["tensors"].values())
    assert model.exact_bytes == exact
    assert stored_bytes(model, model.native_dtype) == exact


def test_tensors_that_no_config_speaks_of_are_counted(tmp_path: Path) -> None:
    saved = json.loads(next(path for path in SAVED if path.stem == "llama").read_text())
    plain = stored_bytes(read_model(written(tmp_path, saved)), "bf16")
    saved["tensors"]["model.layers.1.self_attn.extra.weight"] = ["BF16", [10, 10]]
    saved["tensors"]["model.rotary_emb.inv_freq"] = ["F32", [32]]
    assert stored_bytes(read_model(written(tmp_path, saved)), "bf16") == plain + 200


def test_an_index_without_its_files_still_tells_the_total(tmp_path: Path) -> None:
    saved = json.loads(SAVED[0].read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved["config"]))
    index = {"metadata": {"total_size": 12345}, "weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_model(tmp_path).exact_bytes == 12345


@pytest.mark.parametrize(
    "content", [b"", b"\x01", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]"]
)
def test_a_damaged_file_is_one_error(content: bytes, tmp_path: Path) -> None:
    saved = json.loads(SAVED[0].read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved["config"]))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_model(tmp_path)
