"""Where models come from: GGUF files, the hub cache, the catalogue, a mirror."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from llmfleet.launch.models.files import hub_snapshot, read_model, resolve_model
from llmfleet.launch.models.hub import fetched_config
from llmfleet.planner.errors import InputError, ModelError, TransportError, UnknownNameError
from llmfleet.planner.model.types import Attention, stored_bytes

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 128, "torch_dtype": "float16",
}  # fmt: skip


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(tensors: dict[str, tuple[tuple[int, ...], int]], facts: dict[str, int], family: str = "llama") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts) + 2)
    body = text("general.architecture") + struct.pack("<I", 8) + text(family)
    body += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c")
    for key, number in facts.items():
        body += text(key) + struct.pack("<II", 4, number)
    for name, (shape, kind) in tensors.items():
        body += (
            text(name)
            + struct.pack("<I", len(shape))
            + struct.pack(f"<{len(shape)}Q", *reversed(shape))
            + struct.pack("<IQ", kind, 0)
        )
    return head + body


FACTS = {
    "llama.block_count": 2, "llama.embedding_length": 64, "llama.feed_forward_length": 128, "llama.context_length": 512,
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "general.file_type": 7,
}  # fmt: skip
TENSORS = {
    "token_embd.weight": ((3, 64), 8), "blk.0.attn_q.weight": ((64, 64), 8), "blk.1.attn_q.weight": ((64, 64), 8),
    "blk.1.attn_norm.weight": ((64,), 0), "output_norm.weight": ((64,), 0),
}  # fmt: skip


def test_a_gguf_file_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf(TENSORS, FACTS))
    model = read_model(file)
    assert (model.num_layers, model.num_kv_heads, model.vocab_size, model.max_context) == (2, 2, 3, 512)
    assert model.native_quantization == "q8_0"
    assert model.layers[0].caches == (Attention(2, 16, 16),)
    exact = (3 * 64 + 2 * 64 * 64) // 32 * 34 + 2 * 64 * 4
    assert model.exact_bytes == stored_bytes(model, "fp32") == exact
    assert read_model(tmp_path).exact_bytes == exact  # the only one of its folder


@pytest.mark.parametrize("cut", [0, 3, 8, 20, 40, 100, 300])
def test_a_truncated_gguf_is_one_error(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(gguf(TENSORS, FACTS)[:cut])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        read_model(file)


def test_a_gguf_without_a_needed_fact(tmp_path: Path) -> None:
    file = tmp_path / "bare.gguf"
    file.write_bytes(gguf(TENSORS, {}))
    with pytest.raises(ModelError, match=r"llama\.block_count"):
        read_model(file)


def test_a_config_that_was_given_wins(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(CONFIG))
    model = resolve_model("Qwen/Qwen3-8B", base=tmp_path, config="mine.json")
    assert (model.name, model.hidden_size) == ("Qwen/Qwen3-8B", 64)
    assert resolve_model("Qwen/Qwen3-8B", base=tmp_path).hidden_size == 4096


def test_a_folder_beside_the_inventory(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text(json.dumps(CONFIG))
    assert resolve_model("acme/x", base=tmp_path, source="weights").name == "acme/x"
    assert resolve_model("weights", base=tmp_path).vocab_size == 100
    with pytest.raises(UnknownNameError, match="no known model"):
        resolve_model("acme/x", base=tmp_path)
    with pytest.raises(UnknownNameError, match="Qwen/Qwen3-8B"):
        resolve_model("Qwen/Qwen3-8Bb", base=tmp_path)


def test_a_service_is_not_planned_from_a_name_alone_but_told_what_it_says() -> None:
    with pytest.raises(UnknownNameError, match="Its name says Qwen/Qwen3-32B in awq"):
        resolve_model("acme/Qwen3-32B-AWQ-4bit")


def test_the_hub_cache_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--acme--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    assert hub_snapshot("acme/x") == snapshot
    assert resolve_model("acme/x").hidden_size == 64
    assert hub_snapshot("../x") is None


@contextmanager
def mirror(files: dict[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_mirror_is_asked_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with mirror({"/acme/x/resolve/main/config.json": json.dumps(CONFIG).encode()}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with fetched_config("acme/x") as folder:
            assert read_model(folder).vocab_size == 100
        assert not folder.exists()
        with pytest.raises(InputError, match="no such model"), fetched_config("acme/y"):
            pass
    with pytest.raises(TransportError, match="could be reached"), fetched_config("acme/x", timeout=2):
        pass
    with pytest.raises(InputError, match="no model id"), fetched_config("../../etc/passwd"):
        pass
