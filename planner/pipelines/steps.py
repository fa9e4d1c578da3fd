"""Seconds of a pipeline whose stages are unlike: what one GPU class would take, by its part of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from llmfleet.planner.speed.hardware import HOP_LATENCY_S, NIC_EFFICIENCY
from llmfleet.planner.speed.steps import Steps


@dataclass(frozen=True, slots=True)
class ChainSteps(Steps):
    """`stages`: part of all layers, and the steps of a group of GPUs of that stage's class with all of them.

    A batch runs as one part a stage. A token's round trip is the sum of the stages, and no part can follow another
    faster than the slowest stage lets it: the longer of the two is the step.
    """

    stages: tuple[tuple[float, Steps], ...] = ()
    hop_s: float = 0.0
    hop_bandwidth: float = 1.0

    def step_s(self, batch: float, context: float, prompt: float = 0.0) -> float:
        count = len(self.stages)
        part = max(1.0, batch / count)
        times = self.stage_times(part, context, prompt / count)
        return max(sum(times), count * max(times))

    def stage_times(self, batch: float, context: float, prompt: float) -> list[float]:
        """One step of one part, stage by stage, each with its hop."""
        known: dict[int, float] = {}
        hop = self.hop_s + (batch + prompt) * self.token_bytes / self.hop_bandwidth
        for _, steps in self.stages:
            if id(steps) not in known:
                known[id(steps)] = steps.step_s(batch, context, prompt)
        return [share * known[id(steps)] + hop for share, steps in self.stages]

    def prefill_s(self, tokens: float, cached: float = 0.0) -> float:
        if tokens <= 0:
            return 0.0
        chunks = self.chunks(tokens)
        times = [share * steps.prefill_s(tokens, cached) / chunks for share, steps in self.stages]
        return sum(times) + (chunks - 1) * max(times)

    def prefill_occupancy_s(self, tokens: float, cached: float = 0.0) -> float:
        return max(share * steps.prefill_occupancy_s(tokens, cached) for share, steps in self.stages)

    def prompt_attention_s(self, tokens: float, cached: float) -> float:
        """For a caller that divides it by the stages, as if they were alike."""
        return len(self.stages) * max(share * s.prompt_attention_s(tokens, cached) for share, s in self.stages)


def chain_steps(layers: Sequence[int], steps: Sequence[Steps], nic_bits_s: float) -> ChainSteps:
    """`layers` and `steps` by stage; each of the steps is of all layers on that stage's GPUs."""
    total = sum(layers)
    slowest = max(steps, key=lambda s: s.weights_s)
    own = {f.name: getattr(slowest, f.name) for f in fields(Steps)}
    own["hardware"] = replace(slowest.hardware, pp=len(layers))
    stages = tuple((count / total, s) for count, s in zip(layers, steps, strict=True))
    return ChainSteps(**own, stages=stages, hop_s=HOP_LATENCY_S, hop_bandwidth=nic_bits_s / 8 * NIC_EFFICIENCY)
