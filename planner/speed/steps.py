"""Seconds of the two kinds of work: a decode step of a batch, and the prefill of a prompt.

All that does not depend on the batch is worked out once, in `steps_from`: a plan asks for some ten thousand steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, sqrt

from llmfleet.planner.speed import hardware as h
from llmfleet.planner.speed.hardware import Hardware
from llmfleet.planner.speed.pace import ESTIMATED, Scale
from llmfleet.planner.speed.work import Context, Experts, Work

ACTIVATION_BYTES = 2  # collectives and hops carry 16-bit activations


@dataclass(frozen=True, slots=True)
class ExpertsCost:
    """Seconds to read all experts of a kind from one GPU's share of them, and to work on one token."""

    all_s: float
    idle: float  # part of the experts that one token leaves idle
    token_s: float

    def seconds(self, tokens: float) -> float:
        """Those that anyone works with are read, when every token picks evenly and by itself."""
        return together(self.all_s * float(1 - self.idle**tokens), tokens * self.token_s)


@dataclass(frozen=True, slots=True)
class ContextCost:
    """Attention of one sequence per token of its context, on one GPU; `reach`: tokens it looks back at most."""

    reach: int
    decode_s: float
    prefill_s: float


@dataclass(frozen=True, slots=True)
class Steps:
    """`chunk`: tokens of one step (max_num_batched_tokens). Figures are of all layers on one group of `tp` GPUs."""

    hardware: Hardware
    chunk: int
    weights_s: float  # read by every step, experts aside
    experts: tuple[ExpertsCost, ...]
    token_s: float  # arithmetic of the matrices, one token, experts aside
    head_s: float  # of the head, one sequence
    contexts: tuple[ContextCost, ...]
    state_s: float  # recurrent state, one sequence
    fixed_s: float  # of each step, whatever is in it: launches of kernels, and the host's work between steps
    collectives: int
    token_bytes: float  # what a token takes in a collective or a hop
    scale: Scale = ESTIMATED
    least_s: float = 0.0  # of each step: the host's launches, where no CUDA graph saves them

    def step_s(self, batch: float, context: float, prompt: float = 0.0) -> float:
        """One token for each of `batch` sequences that hold `context` tokens each, and `prompt` tokens of new prompts.

        Prompt tokens ride along: weights are read once for all, so that short prompts cost little. Their attention is
        not in here. Under pipeline parallelism the batch runs as one part a stage; a token still passes every stage, so
        the stages' times add up to what one group of GPUs with all the layers would take on that part.
        """
        part = max(1.0, batch / self.hardware.pp)
        attention = self.scale.decode * part * self._attention_s(context)
        return self._carried_s(part, prompt / self.hardware.pp, part) + attention

    def chunks(self, tokens: float) -> int:
        """Steps that a prompt of so many tokens is cut into."""
        return max(1, ceil(tokens / self.chunk))

    def prefill_s(self, tokens: float, cached: float = 0.0) -> float:
        """The first token of one prompt of `tokens` behind `cached` ones, with nothing else running."""
        if tokens <= 0:
            return 0.0
        chunks, stages = self.chunks(tokens), self.hardware.pp
        one = self._carried_s(1.0, tokens / chunks - 1, 1.0)
        # Chunks follow one another through the stages: the last leaves stages - 1 turns after it could have.
        turns = (chunks + stages - 1) / (chunks * stages)
        return (one * chunks + self.prompt_attention_s(tokens, cached)) * turns

    def prefill_occupancy_s(self, tokens: float, cached: float = 0.0) -> float:
        """How long the busiest stage works on that prompt: what limits prompts a second.

        Prompts of one step share its weights and host work, so short prompts cost little more than their arithmetic.
        """
        if tokens <= 0:
            return 0.0
        whole = self._carried_s(1.0, self.chunk - 1, 0.0)
        return (tokens / self.chunk * whole + self.prompt_attention_s(tokens, cached)) / self.hardware.pp

    def prompt_attention_s(self, tokens: float, cached: float) -> float:
        """Each new token sees what is before it."""
        seen = cached + tokens / 2
        return self.scale.prefill * tokens * sum(c.prefill_s * min(seen, c.reach) for c in self.contexts)

    def _carried_s(self, tokens: float, prompt: float, sequences: float) -> float:
        """A step without its attention. What it takes anyway was measured as decoding, the rest as prompts."""
        whole = max(self.least_s, self._pass_s(tokens + prompt, sequences))
        if prompt <= 0 or self.scale.decode == self.scale.prefill:  # as nearly always: half the work
            return self.scale.decode * whole
        bare = max(self.least_s, self._pass_s(tokens, sequences))
        return self.scale.decode * bare + self.scale.prefill * (whole - bare)

    def _pass_s(self, tokens: float, sequences: float) -> float:
        """All but attention: `tokens` through all layers, `sequences` of which ask for a next token."""
        matrices = together(self.weights_s, tokens * self.token_s + sequences * self.head_s)
        for experts in self.experts:
            matrices += experts.seconds(tokens)
        size = tokens * self.token_bytes
        moves = self.collectives * self.hardware.all_reduce_s(size) + self.hardware.hops_s(size)
        return matrices + moves + self.fixed_s + sequences * self.hardware.sequence_s

    def _attention_s(self, context: float) -> float:
        return self.state_s + sum(c.decode_s * min(context, c.reach) for c in self.contexts)


def together(read_s: float, work_s: float) -> float:
    """Reading and arithmetic overlap, but not wholly: the longer of the two far from their crossing, more near it."""
    return sqrt(read_s * read_s + work_s * work_s)


def steps_from(
    work: Work, hardware: Hardware, chunk: int, scale: Scale = ESTIMATED, *, graphs: bool = True
) -> Steps:
    tp = hardware.tp
    return Steps(
        hardware=hardware,
        chunk=chunk,
        weights_s=_on_each(work.bytes, work.whole_bytes, hardware.reading, tp)
        + work.head_bytes / hardware.reading("") / tp,
        experts=tuple(_experts(e, hardware) for e in work.experts),
        token_s=_on_each(work.flops, work.whole_flops, hardware.flops, tp),
        head_s=work.head_flops / hardware.flops("") / tp,
        contexts=tuple(_context(c, hardware) for c in work.contexts),
        state_s=work.state_bytes / tp / hardware.bandwidth,
        fixed_s=hardware.step_s + _kernels_s(work, hardware),
        collectives=work.collectives if tp > 1 else 0,
        token_bytes=float(work.hidden * ACTIVATION_BYTES),
        scale=scale,
        least_s=0.0 if graphs else work.layers * h.EAGER_LAYER_S,
    )


def _on_each(
    amounts: Mapping[str, float], whole: Mapping[str, float], rate: Callable[[str], float], tp: int
) -> float:
    """Seconds of one GPU: for its share of what is cut, and for all of what is not."""
    return sum((amount + (tp - 1) * whole.get(form, 0.0)) / rate(form) for form, amount in amounts.items()) / tp


def _kernels_s(work: Work, hardware: Hardware) -> float:
    seconds = work.layers * h.LAYER_S + work.moe_layers * h.MOE_LAYER_S
    seconds += work.latent_layers * h.LATENT_LAYER_S + work.sparse_layers * h.SPARSE_LAYER_S
    if any(form and hardware.native(form) for form in work.flops):
        seconds += work.layers * h.QUANTIZING_LAYER_S
    return seconds * hardware.layers


def _experts(experts: Experts, hardware: Hardware) -> ExpertsCost:
    form = max(experts.flops, key=lambda name: experts.flops[name])
    return ExpertsCost(
        all_s=experts.bytes / hardware.tp / hardware.reading(form),
        idle=1 - experts.active / experts.count,
        token_s=sum(amount / hardware.flops_experts(name) for name, amount in experts.flops.items()) / hardware.tp,
    )


def _context(context: Context, hardware: Hardware) -> ContextCost:
    tp, rate = hardware.tp, hardware.flops_attention
    shards = min(tp, context.heads) if context.heads else 1  # a latent is whole on each GPU
    decode, prefill = (min(tp, most) for most in context.cuts)
    return ContextCost(
        reach=context.reach,
        decode_s=max(context.kv_bytes / shards / hardware.reading_cache, context.decode_flops / decode / rate),
        prefill_s=context.prefill_flops / prefill / rate,
    )
