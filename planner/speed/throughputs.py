"""Tables of measured throughput, for those who have them: requests/s inside the SLO by length of prompt and answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from llmfleet.planner.catalog import Catalog
from llmfleet.planner.catalog.types import Gpu, Throughput
from llmfleet.planner.inventory.strict import Strict
from llmfleet.planner.inventory.units import Tokens
from llmfleet.planner.memory.types import Shape
from llmfleet.planner.speed.request import Request

ALIKE = 0.01  # lengths that differ by less are the same cell


class ThroughputTable(Strict):
    """What one instance takes while it keeps the SLO: a row for each input, in it a number for each output."""

    gpu: str = Field(description="A GPU of the catalogue, or as drivers and people write it.")
    model: str = Field(description="As the inventory calls it.")
    tp: Annotated[int, Field(ge=1, le=4096)] = 1
    pp: Annotated[int, Field(ge=1, le=4096)] = 1
    input: tuple[Tokens, ...] = Field(min_length=1, description="Mean tokens of a prompt in each row.")
    output: tuple[Tokens, ...] = Field(min_length=1, description="Mean tokens of an answer in each column.")
    requests_per_s: tuple[tuple[Annotated[float, Field(ge=0, le=1e6)], ...], ...]
    source: str | None = Field(default=None, max_length=1000)

    @property
    def whole(self) -> bool:
        rows = self.requests_per_s
        return len(rows) == len(self.input) and all(len(row) == len(self.output) for row in rows)

    def cells(self) -> Iterator[Throughput]:
        for tokens, row in zip(self.input, self.requests_per_s, strict=True):
            for answer, rate in zip(self.output, row, strict=True):
                yield Throughput(self.model, self.tp, self.pp, tokens, answer, rate)


def with_throughputs(catalog: Catalog, tables: Iterable[ThroughputTable]) -> Catalog:
    """Raises UnknownNameError for GPUs that nobody knows."""
    found: dict[str, list[Throughput]] = {}
    for table in tables:
        found.setdefault(catalog.gpu(table.gpu).name, []).extend(table.cells())
    return catalog.with_gpus([replace(catalog.gpu(name), throughputs=tuple(cells)) for name, cells in found.items()])


def measured_rate(gpu: Gpu, model: str, shape: Shape, request: Request) -> float | None:
    """Of exactly such an instance and such requests, if anyone has measured them."""
    for cell in gpu.throughputs:
        same = (cell.model, cell.tp, cell.pp) == (model, shape.tp, shape.pp)
        if same and _alike(cell.input_len, request.input_len) and _alike(cell.output_len, request.output_len):
            return cell.requests_per_s
    return None


def _alike(a: float, b: float) -> bool:
    return abs(a - b) <= ALIKE * max(a, b)
