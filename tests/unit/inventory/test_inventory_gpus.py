"""The GPUs of a node as text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.gpus import GPUS, GpuGroup, cpu_slot_gib, parse_gpus


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8 x A800-80G", 8, "A800-80G"),
        ("8xA800-80G", 8, "A800-80G"),
        ("8 × A800-80G", 8, "A800-80G"),
        (" 8 X A800-80G ", 8, "A800-80G"),
        ("2 x NVIDIA H100 80GB HBM3", 2, "NVIDIA H100 80GB HBM3"),
        ("1 x RTX 4090", 1, "RTX 4090"),
        ("2 x CPU-4G", 2, "CPU-4G"),
    ],
)
def test_reads(text: str, count: int, name: str) -> None:
    assert parse_gpus(text) == GpuGroup(count, name)
    assert str(parse_gpus(text)) == f"{count} x {name}"
    assert GPUS.parse(text) == f"{count} x {name}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A800-80G", 'expected a count and a GPU such as "8 x A800-80G", not "A800-80G".'),
        ("eight x A800", "expected a count and a GPU"),
        ("8 x", "expected a count and a GPU"),
        ("", "expected a count and a GPU"),
        ("8 x $(reboot)", "expected a count and a GPU"),
        ("8 x A800\n", "expected a count and a GPU"),
        ("0 x A800-80G", "expected 1 to 64 GPUs in a node, not 0."),
        ("65 x A800-80G", "expected 1 to 64 GPUs in a node, not 65."),
        ("2 x CPU", 'expected CPU slots such as "2 x CPU-4G", 4 GiB each, not "2 x CPU".'),
        ("2 x CPU-0G", "expected CPU slots"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse_gpus(text)


def test_cpu_slots() -> None:
    assert cpu_slot_gib("CPU-4G") == 4
    assert cpu_slot_gib("CPU-128G") == 128
    assert cpu_slot_gib("A800-80G") is None
    assert cpu_slot_gib("CPU-0G") is None


@given(st.text(max_size=120))
def test_only_input_errors(text: str) -> None:
    try:
        group = parse_gpus(text)
    except InputError:
        return
    assert parse_gpus(str(group)) == group
