"""Start-ups of vLLM that others logged, beside what the planner says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llmfleet.planner.catalog import Catalog, catalog
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.figures import Budget
from llmfleet.planner.memory import kv
from llmfleet.planner.memory.estimate import estimate
from llmfleet.planner.memory.overheads import counted_graphs
from llmfleet.planner.memory.settings import Settings, resolve
from llmfleet.planner.memory.types import GIB, EngineOptions, KvCache, Memory, Shape
from llmfleet.planner.model.types import Model

DATA = Path(__file__).parents[1] / "data" / "accuracy"
TABLE, HELD_OUT, FRESH = (
    DATA / f"{name}.jsonl" for name in ("startups", "startups_held_out", "startups_fresh")
)
# What a log without a version is taken for, by its engine: the release of the time when most such logs were written.
ASSUMED = {"V0": "0.7.3", "V1": "0.11.0"}


@dataclass(frozen=True)
class Row:
    """One start-up. `measured` is what the log prints, in GiB, tokens and requests."""

    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.facts["id"])

    @property
    def measured(self) -> Mapping[str, float]:
        found: Mapping[str, float] = self.facts["measured"]
        return found

    @property
    def layout(self) -> str:
        return str(self.facts["layout"])

    @property
    def version_known(self) -> bool:
        """A release from 0.8 on, by its number."""
        return bool(re.match(r"0\.([89]|\d\d)", self.facts.get("version") or ""))

    @cached_property
    def model(self) -> Model:
        name = self.facts["model"]
        found = catalog().model(name)
        if "config" in self.facts:  # the checkpoint's file as it was then
            found = Catalog({"models": {"then": {"like": name, "config": self.facts["config"]}}}).model("then")
        assert found, f"{self.id}: {self.facts['model']} is not in the catalogue"
        return found

    @cached_property
    def gpu(self) -> Gpu:
        card = catalog().gpu(self.facts.get("gpu") or "A100-80G")
        total = self.facts.get("gpu_total_gib")
        return replace(card, visible_gib=total) if total else card

    @property
    def gpu_known(self) -> bool:
        return "gpu" in self.facts

    @property
    def shape(self) -> Shape:
        return Shape(self.facts["tp"], self.facts["pp"], self.facts.get("ep", False))

    @property
    def options(self) -> EngineOptions:
        version = self.facts.get("version") or ASSUMED[self.facts["engine"]]
        return EngineOptions(version=version, **self.facts.get("options", {}))

    @cached_property
    def settings(self) -> Settings:
        return resolve(self.model, self.gpu, self.shape, self.options)

    @cached_property
    def predicted(self) -> Memory:
        return estimate(self.model, self.gpu, self.shape, self.options)

    def weights_error(self) -> float | None:
        """Relative, signed; None where the checkpoint is another than the catalogue's."""
        measured = self.measured.get("weights_gib")
        if not measured or "weights_differ" in self.facts:
            return None
        return self.predicted.ranks[0].budget.weights_gib / measured - 1

    def kv_error(self) -> tuple[float, float] | None:
        """GiB off and the measured GiB, on the first rank, which is the one that logs.

        Where the checkpoint is another than the catalogue's, what its weights took in the log is taken off instead.
        """
        measured = self.measured.get("kv_gib")
        if measured is None or measured <= 0:
            return None
        return self.available - measured, measured

    @property
    def available(self) -> float:
        """GiB that the first rank is predicted to have left."""
        budget: Budget = self.predicted.ranks[0].budget
        logged = self.measured.get("weights_gib") if "weights_differ" in self.facts else None
        if logged is None:
            return budget.kv_available_gib
        other = budget.activation_gib + budget.non_torch_gib + counted_graphs(self.settings, 1) * budget.cuda_graph_gib
        return budget.total_gib * self.settings.utilization - logged - other

    @property
    def deciding_bytes(self) -> bool:
        """Whether the log prints the bytes that tokens follow from.

        vLLM takes the fewest blocks of all ranks and prints one rank's bytes: on several GPUs those are an upper bound.
        """
        return self.shape.gpus == 1

    def from_bytes(self) -> Range | None:
        """What the arithmetic makes of the measured bytes, as far as they are rounded; None without bytes."""
        measured = self.measured.get("kv_gib")
        if measured is None or measured <= 0 or self.pool is None:
            return None
        half = 0.5 * 10.0 ** -max(2, len(str(measured).partition(".")[2]))
        low, high = (
            kv.kv_cache(self.settings, [int(gib * GIB)] * self.shape.pp, self.pool)
            for gib in (measured - half, measured + half)
        )
        assert low and high
        return Range(low, high)

    def tokens_error(self) -> float | None:
        """How far tokens, concurrency or blocks lie outside of what the measured bytes give: relative, signed."""
        found = self.from_bytes()
        if found is None:
            return None
        errors = []
        if "kv_tokens" in self.measured:
            errors.append(_beyond(self.measured["kv_tokens"], found.low.tokens, found.high.tokens, 0))
        if self._concurrency is not None:
            errors.append(_beyond(self._concurrency, found.low.max_concurrency, found.high.max_concurrency, 0.005))
        if not errors and "blocks" in self.measured:
            errors.append(_beyond(self.measured["blocks"], found.low.gpu_blocks, found.high.gpu_blocks, 0))
        return max(errors, key=abs, default=None)

    def concurrency_error(self) -> float | None:
        """Of concurrency from the printed tokens, which say how many blocks all ranks have: relative, signed."""
        tokens, pool = self.measured.get("kv_tokens"), self.pool
        if tokens is None or self._concurrency is None or pool is None:
            return None
        version = self.settings.version
        if version >= kv.TOKENS_BY_CONCURRENCY or version < kv.CONCURRENCY_BY_BLOCKS:
            found = (tokens / self.settings.max_model_len, (tokens + 1) / self.settings.max_model_len)
        else:
            groups = len(pool.groups)
            least = int(tokens) // pool.block_size * groups
            found = (least / pool.request_blocks, (least + groups - 1) / pool.request_blocks)
        return _beyond(self._concurrency, *found, 0.005)

    @cached_property
    def pool(self) -> kv.Pool | None:
        return kv.pool(self.settings)

    @property
    def _concurrency(self) -> float | None:
        same = self.measured.get("concurrency_at") == self.settings.max_model_len
        return self.measured.get("concurrency") if same else None


@dataclass(frozen=True)
class Range:
    low: KvCache
    high: KvCache


def _beyond(measured: float, low: float, high: float, rounding: float) -> float:
    """How far a measured value lies above (or, negative, below) a range, as a part of it."""
    if measured > high + rounding:
        return (measured - high - rounding) / measured
    return min(0.0, (measured - low + rounding) / measured)


def read(table: Path = TABLE) -> Iterator[Row]:
    for line in table.read_text(encoding="utf-8").splitlines():
        yield Row(json.loads(line))
