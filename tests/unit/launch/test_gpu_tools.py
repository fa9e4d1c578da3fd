"""What GPU makers' tools print, from public reports, and what is read from it.

mi100-older.json puts the names and key spellings of an older release's CSV, and made-up sizes, into its JSON.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmfleet.launch.nodes.gpu_tools import (
    GpuFacts,
    parse_cuda,
    parse_hl_smi,
    parse_npu_smi,
    parse_nvidia_smi,
    parse_rocm_smi,
    parse_topology,
)
from llmfleet.planner.catalog import catalog

DATA = Path(__file__).parents[2] / "data"


def read(name: str) -> str:
    return (DATA / name).read_text()


def test_rocm_smi() -> None:
    (new,) = parse_rocm_smi(read("rocm_smi/7900xt.json"))
    assert new == GpuFacts(0, "Radeon RX 7900 XT", 20464, 26, "")
    old = parse_rocm_smi(read("rocm_smi/mi100-older.json"))
    assert [(g.index, g.name, g.memory_mib) for g in old] == [
        (0, "AMD Instinct MI100", 32752),
        (1, "AMD Instinct MI100", 32752),
    ]
    assert old[0].driver.startswith("4.18.0")


def test_npu_smi() -> None:
    cards = parse_npu_smi(read("npu_smi/2x-910b3.txt"))
    assert cards == (
        GpuFacts(0, "Ascend 910B3", 65536, 3369, "24.1.rc2"),
        GpuFacts(1, "Ascend 910B3", 65536, 3368, "24.1.rc2"),
    )
    assert catalog().gpu(cards[0].name).name == "Ascend-910B3"
    chips = parse_npu_smi(read("npu_smi/a3-two-chips-a-card.txt"))
    assert [(c.index, c.name, c.used_mib) for c in chips] == [(0, "Ascend 910", 3419), (1, "Ascend 910", 2874)]


def test_hl_smi() -> None:
    cards = parse_hl_smi(read("hl_smi/gaudi3.csv"))
    assert cards[1] == GpuFacts(1, "HL-325L", 131072, 672, "1.22.1-97ec1a4")
    assert catalog().gpu(cards[0].name).name == "Gaudi-3"


def test_nvidia_smi_with_and_without_uuids() -> None:
    row = "0, NVIDIA L4, 23034, 5, 580.65.06"
    assert [g.uuid for g in parse_nvidia_smi(f"{row}\n{row}, GPU-1")] == ["", "GPU-1"]


def test_compute_modes() -> None:
    cards = parse_nvidia_smi(read("nvidia_smi/compute-modes.csv"))
    assert [g.compute_mode for g in cards] == ["Exclusive_Process", "Default", "Prohibited", "[N/A]"]
    assert cards[0].uuid == "GPU-76aef7ff-372d-2432-b4b4-beca4d8d3400"


@pytest.mark.parametrize(
    ("name", "link"),
    [("8x-a800-nv8", "nvlink"), ("2x-5090-phb", "pcie"), ("8x-p100-pcie", "pcie"), ("1x", None)],
)
def test_topology(name: str, link: str | None) -> None:
    assert parse_topology(read(f"topology/{name}.txt")) == link


def test_one_pair_without_nvlink_is_enough_for_pcie() -> None:
    text = read("topology/8x-a800-nv8.txt").replace("GPU7    NV8 ", "GPU7    SYS ")
    assert parse_topology(text) == "pcie"


@pytest.mark.parametrize("text", ["", "nonsense", "GPU0 X"])
def test_a_topology_that_is_none(text: str) -> None:
    assert parse_topology(text) is None


def test_cuda_stands_in_the_head_of_the_table() -> None:
    assert parse_cuda("| NVIDIA-SMI 550.127.05     Driver Version: 550.127.05     CUDA Version: 12.4     |") == "12.4"
    assert parse_cuda("no such thing") is None
