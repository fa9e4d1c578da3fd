"""Benchmark runs of single instances that others published, beside what the planner says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmfleet.planner.catalog import Catalog, catalog
from llmfleet.planner.figures import Expected
from llmfleet.planner.memory.estimate import estimate as budget
from llmfleet.planner.memory.types import EngineOptions, Memory, Shape
from llmfleet.planner.model.types import Model
from llmfleet.planner.speed.instance import Load, instance_speed
from llmfleet.planner.speed.measurements import Measurement

FOLDER = Path(__file__).parents[1] / "data" / "accuracy"
TABLE, HELD_OUT = FOLDER / "speed.jsonl", FOLDER / "speed_held_out.jsonl"
METRICS = ("tpot", "tokens", "ttft")


@dataclass(frozen=True)
class Run:
    """One run. `facts` as in the table: milliseconds, tokens, requests a second."""

    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.facts["id"])

    @property
    def gpu(self) -> str:
        return str(self.facts["gpu"])

    @cached_property
    def model(self) -> Model:
        found = catalog().model(self.facts["model"])
        assert found is not None, self.facts["model"]
        return found

    @property
    def kind(self) -> str:
        return "MoE" if self.model.experts else "dense"

    @property
    def judged(self) -> bool:
        """A run of vLLM under a stated load, with nothing in it that no option of `estimate` says."""
        return self.facts["engine"] == "vllm" and "odd" not in self.facts and "burst" not in self.facts["load"]

    @property
    def load(self) -> Load:
        """A run that sends all its requests at once has as many clients as requests."""
        load = self.facts["load"]
        clients = load.get("concurrency", load.get("burst"))
        return Load(load["input_len"], load["output_len"], clients, load.get("request_rate"))

    @property
    def shape(self) -> Shape:
        return Shape(self.facts["tp"], self.facts["pp"], self.facts.get("ep", False))

    @property
    def options(self) -> EngineOptions:
        version = self.facts["version"] if self.facts["engine"] == "vllm" else None
        return EngineOptions(
            version=version, quantization=self.facts.get("quantization"), **self.facts.get("options", {})
        )

    @cached_property
    def memory(self) -> Memory:
        return budget(self.model, catalog().gpu(self.gpu), self.shape, self.options)

    def predicted(self, known: Catalog | None = None) -> Expected:
        gpu = (known or catalog()).gpu(self.gpu)
        return instance_speed(self.model, gpu, self.shape, self.options, self.load, memory=self.memory)

    @cached_property
    def estimate(self) -> Expected:
        return self.predicted()

    def measured(self, metric: str) -> float | None:
        found: Mapping[str, float] = self.facts["measured"]
        if metric == "tokens":
            return found.get("output_tokens_per_s")
        if metric == "tpot":
            return found.get("tpot_ms_mean", found.get("tpot_ms_median")) if self.load.output_len >= 2 else None
        return found.get("ttft_ms_median", found.get("ttft_ms_mean"))

    def error(self, metric: str, estimate: Expected | None = None) -> float | None:
        """Of the estimate, as a part of what was measured."""
        value, said = self.measured(metric), estimate or self.estimate
        found = {"tpot": said.tpot_ms, "tokens": said.output_tokens_per_s, "ttft": said.ttft_ms}[metric]
        return None if value is None else found / value - 1

    @property
    def ttft_inside(self) -> bool | None:
        value = self.measured("ttft")
        low, high = self.estimate.ttft_ms_range
        return None if value is None else low <= value <= high

    @property
    def measurement(self) -> Measurement:
        """As calibration.yaml would have it."""
        load = self.load
        return Measurement(
            gpu=self.gpu, model=self.facts["model"], tp=self.shape.tp, pp=self.shape.pp,
            precision=self.facts.get("quantization") or self.model.native_quantization or self.model.native_dtype,
            engine_version=self.options.version, input_len=load.input_len, output_len=load.output_len,
            concurrency=load.concurrency, request_rate=load.rate, tpot_ms=self.measured("tpot"),
        )  # fmt: skip


def read_runs(table: Path = TABLE) -> Iterator[Run]:
    for line in table.read_text(encoding="utf-8").splitlines():
        yield Run(json.loads(line))
