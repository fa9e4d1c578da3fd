"""What the catalogue knows of accelerators and engines. Each figure's source stands in the YAML beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmfleet.planner.figures import EngineName, Task

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8", "fp4"]
Link = Literal["nvlink", "pcie", "none"]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Fractions of peak that real engines reach, and the host's overhead of one step."""

    bandwidth: float
    compute: float
    step_overhead_ms: float


@dataclass(frozen=True, slots=True)
class Pace:
    """One measurement of such GPUs: measured time over estimated time, of decode steps and of prompts."""

    engine: EngineName
    model: str
    precision: str
    tp: int
    pp: int
    decode: float
    prefill: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Requests/s that one instance on such GPUs was measured to take inside the SLO, at those mean lengths."""

    model: str
    tp: int
    pp: int
    input_len: float
    output_len: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class Gpu:
    """`memory_mib` is what the driver reports, `visible_gib` what CUDA lets a process see. CPU slots are Gpus too."""

    name: str
    vendor: Literal["nvidia", "amd", "ascend", "intel", "cpu"]
    arch: str
    memory_mib: int
    visible_gib: float
    bandwidth_gbs: float
    tflops: Mapping[str, float]  # by Precision, dense
    compute_capability: tuple[int, int] | None = None  # NVIDIA only
    link_gbs: float = 0.0  # both directions, per GPU; 0: none
    link_group: int = 1  # GPUs reachable at that speed in a node
    pcie_gen: int = 4
    p2p: bool = True  # whether such GPUs reach one another's memory over PCIe
    tdp_w: int = 0
    efficiency: Efficiency = field(default_factory=lambda: Efficiency(0.75, 0.45, 0.5))
    calibrated: bool = False  # whether the efficiency comes from measurements of this class
    aliases: tuple[str, ...] = ()
    paces: tuple[Pace, ...] = ()  # from a calibration file
    throughputs: tuple[Throughput, ...] = ()  # from one too


@dataclass(frozen=True, slots=True)
class EngineRelease:
    """One release line of an engine that the planner may choose."""

    engine: EngineName
    version: str
    vendors: tuple[str, ...]
    tasks: tuple[Task, ...]
    min_capability: tuple[int, int] | None = None
    max_capability: tuple[int, int] | None = None
    built_to: tuple[int, int] | None = None  # it runs on newer GPUs too, which a newer release serves better
    image: str | None = None
    precisions: tuple[str, ...] = ()  # it can compute or store weights in; narrowed further by the GPU
    note: str = ""  # for the plan's reasons: why this release, e.g. "the last release built for compute capability 7.0"


@dataclass(frozen=True, slots=True)
class Quantization:
    name: str
    bits_per_weight: float  # of the quantized weights, scales included
    group_size: int | None = None
    min_capability: tuple[int, int] | None = None
    native_capability: tuple[int, int] | None = None  # from here on it also computes faster
    engine: EngineName = "vllm"
