"""Sums of weights: right, remembered, and taken anew when a file changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llmfleet.launch.models import checksums
from llmfleet.launch.models.checksums import source_sums


def test_a_folder_names_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "m/sub").mkdir(parents=True)
    (tmp_path / "m/a.bin").write_bytes(b"a")
    (tmp_path / "m/sub/b.bin").write_bytes(b"bb")
    sums = source_sums(tmp_path / "m", tmp_path / "memory.json")
    assert sums == {
        "a.bin": (1, hashlib.sha256(b"a").hexdigest()),
        "sub/b.bin": (2, hashlib.sha256(b"bb").hexdigest()),
    }


def test_a_single_file_has_no_name_below_itself(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    assert list(source_sums(tmp_path / "m.gguf", tmp_path / "memory.json")) == [""]


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    first = source_sums(tmp_path / "m.gguf", tmp_path / "memory.json")
    monkeypatch.setattr(checksums, "_sha256", lambda path: pytest.fail(f"read {path} again"))
    assert source_sums(tmp_path / "m.gguf", tmp_path / "memory.json") == first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"x")
    source_sums(model, tmp_path / "memory.json")
    model.write_bytes(b"y")
    os.utime(model, ns=(1, 1))
    assert source_sums(model, tmp_path / "memory.json")[""][1] == hashlib.sha256(b"y").hexdigest()


def test_a_broken_memory_is_only_a_cache(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    (tmp_path / "memory.json").write_text("[1, 2")
    assert source_sums(tmp_path / "m.gguf", tmp_path / "memory.json")[""][0] == 1
