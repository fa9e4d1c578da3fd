"""A simulated engine's /metrics: the names and labels that vLLM's has, as far as anything here reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmfleet.planner.simulate.live import LiveEngine

BUCKETS = {
    "time_to_first_token_seconds": (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0),
    "request_time_per_output_token_seconds": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    "e2e_request_latency_seconds": (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
}


@dataclass
class Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def add(self, value: float) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)
        place = next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[place] += 1
        self.total += value


class Figures:
    """Sums over the requests that ended."""

    def __init__(self) -> None:
        self.refused = self.prompt_tokens = self.generation_tokens = self.requests = 0
        self.histograms = {name: Histogram(bounds) for name, bounds in BUCKETS.items()}

    def done(self, first_s: float, rest_s: float, made: int, prompt: int, whole_s: float) -> None:
        self.requests += 1
        self.prompt_tokens += prompt
        self.generation_tokens += made
        self.histograms["time_to_first_token_seconds"].add(first_s)
        self.histograms["e2e_request_latency_seconds"].add(whole_s)
        if made > 1:
            self.histograms["request_time_per_output_token_seconds"].add(rest_s / (made - 1))


def page(spec: dict[str, Any], engine: LiveEngine, figures: Figures) -> str:
    now = engine.figures()
    label = f'engine="0",model_name="{spec["names"][0]}"'
    lines = ["# A simulated engine: no GPU, no model."]
    gauges = {"num_requests_running": "running", "num_requests_waiting": "waiting", "kv_cache_usage_perc": "kv_usage"}
    lines += [f"vllm:{name}{{{label}}} {now[key]}" for name, key in gauges.items()]
    counters = {
        "prefix_cache_queries": now["prefix_queries"], "prefix_cache_hits": now["prefix_hits"],
        "num_preemptions": now["preemptions"], "prompt_tokens": figures.prompt_tokens,
        "generation_tokens": figures.generation_tokens, "admission_rejections": figures.refused,
    }  # fmt: skip
    lines += [f"vllm:{name}_total{{{label}}} {value}" for name, value in counters.items()]
    seconds = {"running": "running_s", "busy": "busy_s", "kv_block": "kv_block_s"}  # of the model's time
    lines += [f"simulated:{name}_seconds_total{{{label}}} {now[key]}" for name, key in seconds.items()]
    lines.append(f'vllm:request_success_total{{{label},finished_reason="length"}} {figures.requests}')
    blocks = engine.spec.blocks + 1  # vLLM counts its empty block too
    spec_labels = f'engine="0",block_size="{engine.spec.block}",num_gpu_blocks="{blocks}"'
    lines.append(f'vllm:cache_config_info{{{spec_labels},simulated="true"}} 1.0')
    for name, histogram in figures.histograms.items():
        lines += _histogram(name, histogram, label)
    return "\n".join(lines) + "\n"


def _histogram(name: str, histogram: Histogram, label: str) -> list[str]:
    counts = histogram.counts or [0] * (len(histogram.bounds) + 1)
    lines, total = [], 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), counts, strict=True):
        total += count
        lines.append(f'vllm:{name}_bucket{{{label},le="{bound}"}} {total}')
    return [*lines, f"vllm:{name}_sum{{{label}}} {histogram.total}", f"vllm:{name}_count{{{label}}} {total}"]
