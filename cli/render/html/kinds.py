"""Kinds of instance: those that are alike, with what a click on one of them shows."""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.cli.output import grouped
from llmfleet.cli.render.plan_groups import Group, groups_of
from llmfleet.cli.render.plan_tables import memory_parts
from llmfleet.planner.plan import Instance, Plan

MEMORY = ("weights", "activations", "buffers", "KV cache", "free")


@dataclass(frozen=True, slots=True)
class Kind:
    """`number` is its place on the page; `share` that of its service's requests."""

    number: int
    group: Group
    instances: tuple[Instance, ...]

    @property
    def one(self) -> Instance:
        return self.instances[0]

    @property
    def service(self) -> str:
        return self.one.service

    @property
    def label(self) -> str:
        return f"{len(self.instances)} × {self.group.shape}"

    @property
    def memory(self) -> tuple[tuple[str, float], ...]:
        """Parts of one GPU in GiB, in the order in which they are stacked."""
        return tuple(zip(MEMORY, memory_parts(self.one.budget), strict=True))

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        i = self.one
        return (
            ("model", i.model),
            ("engine", self.group.engine),
            *((("image", i.image),) if i.image else ()),
            ("precision", self.group.precision),
            ("KV cache", "as the weights" if i.kv_cache_dtype == "auto" else i.kv_cache_dtype),
            ("context", f"{grouped(i.max_model_len)} tokens"),
            ("requests at once", f"{grouped(i.max_concurrency)} planned, {grouped(i.max_num_seqs)} at most"),
            ("tokens a step", grouped(i.max_num_batched_tokens)),
            *((("of one prompt", f"{grouped(t)} while others wait"),) if (t := i.long_prefill_token_threshold) else ()),
            ("room", f"{i.capacity_rps:.3g} requests/s each"),
        )


def kinds_of(plan: Plan) -> tuple[Kind, ...]:
    """Each instance is in one of them, also where it is in several pools."""
    seen: set[str] = set()
    kinds: list[Kind] = []
    for group in groups_of(plan):
        members = tuple(i for i in group.instances if i.id not in seen)
        seen.update(i.id for i in members)
        if members:
            kinds.append(Kind(len(kinds), group, members))
    return tuple(kinds)
