"""What is said of one instance: its GPU's memory and its speed. A single estimate needs these, and no plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["generate", "embed", "rerank"]
EngineName = Literal["vllm", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory of the tightest GPU of an instance, in GiB. The parts and the slack add up to the total."""

    total_gib: float
    weights_gib: float
    activation_gib: float
    non_torch_gib: float
    cuda_graph_gib: float
    kv_available_gib: float
    slack_gib: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What one instance should do at its share of the peak, or full without traffic. Ranges are [low, high]."""

    ttft_ms: float
    tpot_ms: float
    output_tokens_per_s: float
    requests_per_s: float
    ttft_ms_range: tuple[float, float]
    tpot_ms_range: tuple[float, float]
    source: Literal["roofline", "calibrated"] = "roofline"
    ttft_tail_ms: float = 0.0  # at the percentile of the service's SLO; 0: not worked out
    tpot_tail_ms: float = 0.0
