"""calibration.yaml beside the inventory: what stands there is read, or told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_fleet import Run

INVENTORY = """\
cluster: t
nodes: [{name: a, host: 10.0.0.1, gpus: 1 x L4}]
services: [{name: s, model: Qwen/Qwen3-0.6B, traffic: {rate: 1}}]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "calibration.yaml is empty\n  → Remove it"),
        ("# later\n\n", "calibration.yaml is empty\n  → Remove it"),
        ("version: 2", "version: expected 1, not"),
    ],
)
def test_a_text_that_is_none(text: str, said: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "calibration.yaml").write_text(text)
    ran = run("plan", "--no-write", "-q")
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize("kind", ["folder", "link to nowhere", "pipe"])
def test_something_else_in_its_place(kind: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    place = tmp_path / "calibration.yaml"
    kinds = {"folder": Path.mkdir, "link to nowhere": lambda path: path.symlink_to("none"), "pipe": os.mkfifo}
    kinds[kind](place)
    ran = run("plan", "--no-write", "-q")
    assert ran.code == 2
    assert f"{place} " in ran.err
