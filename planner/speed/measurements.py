"""calibration.yaml: what was measured of single instances, as `llmfleet bench` writes it and people may.

docs/calibration.md explains each key. A file is read whole or not at all; all of its mistakes are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from llmfleet.planner.errors import InventoryError, Problem
from llmfleet.planner.figures import EngineName
from llmfleet.planner.inventory.findings import Finding, path
from llmfleet.planner.inventory.source import Located, read
from llmfleet.planner.inventory.strict import Strict
from llmfleet.planner.inventory.wording import finding
from llmfleet.planner.speed.throughputs import ThroughputTable

FILE_NAME = "calibration.yaml"  # beside the inventory, where `llmfleet plan` looks for it

Count = Annotated[int, Field(ge=1, le=4096)]
Milliseconds = Annotated[float, Field(gt=0, le=1e7)]
Word = Annotated[str, Field(min_length=1, max_length=300)]


class Measurement(Strict):
    """One run against one instance: what it ran on, the load it was under, and what clients saw (means)."""

    gpu: Word = Field(description="A GPU of the catalogue, or as drivers and people write it.")
    model: Word = Field(description="As the inventory or `estimate --model` calls it.")
    precision: Word = Field(description="bf16, fp16, fp8, awq, q4_k_m, …")
    tp: Count = 1
    pp: Count = 1
    engine: EngineName = "vllm"
    engine_version: Word | None = None
    input_len: float = Field(gt=0, le=1e8, description="Mean prompt tokens.")
    output_len: float = Field(ge=0, le=1e7, description="Mean answer tokens; 0 for embed and rerank.")
    concurrency: float | None = Field(default=None, gt=0, le=1e5, description="Clients that each wait for an answer.")
    request_rate: float | None = Field(default=None, gt=0, le=1e6, description="Requests a second, at random times.")
    prefix_hit: float = Field(default=0.0, ge=0, lt=1, description="Part of the prompts that the prefix cache held.")
    max_num_seqs: Count | None = None
    max_num_batched_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    output_tokens_per_s: float | None = Field(default=None, gt=0, le=1e8)
    kv_blocks: int | None = Field(default=None, gt=0, le=1_000_000_000, description="As the running engine has them.")
    kv_tokens: int | None = Field(default=None, gt=0, le=1_000_000_000_000, description="As its log says.")
    weights_gib: float | None = Field(default=None, gt=0, le=1e5, description="Of one GPU, as its log says.")
    source: str | None = Field(default=None, max_length=1000, description="Where the figures are from.")
    date: str | None = Field(default=None, description="Of the run, as 2026-11-25.")


class CalibrationFile(Strict):
    version: Literal["1", 1] = 1
    measurements: tuple[Measurement, ...] = ()
    throughputs: tuple[ThroughputTable, ...] = ()


def read_measurements(text: str | bytes, file: str = FILE_NAME) -> tuple[Measurement, ...]:
    """Raises InventoryError with every problem of the file, each with line and column."""
    return read_calibration(text, file).measurements


def read_calibration(text: str | bytes, file: str = FILE_NAME) -> CalibrationFile:
    """Raises InventoryError with every problem of the file, each with line and column."""
    root = read(text, file)
    try:
        found = CalibrationFile.model_validate(root.plain())
    except ValidationError as error:
        problems = [_problem(finding(e, CalibrationFile), root, file) for e in error.errors(include_url=False)]
        raise InventoryError(sorted(problems, key=lambda p: (p.line, p.column))) from None
    findings = [each for i, one in enumerate(found.measurements) for each in _contradictions(i, one)]
    findings += [each for i, table in enumerate(found.throughputs) for each in _holes(i, table)]
    wrong = [_problem(each, root, file) for each in findings]
    if wrong:
        raise InventoryError(wrong)
    return found


def as_document(measurements: Iterable[Measurement], tables: Iterable[ThroughputTable] = ()) -> dict[str, Any]:
    """What a YAML writer dumps: keys in the order of the documentation, without those that say nothing."""
    found: dict[str, Any] = {"version": 1}
    for name, entries in (("measurements", measurements), ("throughputs", tables)):
        kept = [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]
        if kept or name == "measurements":
            found[name] = kept
    return found


def _contradictions(index: int, one: Measurement) -> Iterator[Finding]:
    here = ("measurements", index)
    if (one.concurrency is None) == (one.request_rate is None):
        yield Finding(here, "needs concurrency or request_rate, one of the two.")
    if one.ttft_ms is None and one.tpot_ms is None and one.output_tokens_per_s is None:
        yield Finding(here, "has no figure.", "At least one of ttft_ms, tpot_ms and output_tokens_per_s.")
    if not one.output_len and (one.tpot_ms is not None or one.output_tokens_per_s is not None):
        yield Finding((*here, "output_len"), "0 tokens have neither a TPOT nor a rate of tokens.")
    if one.date is not None and not _is_date(one.date):
        yield Finding((*here, "date"), f'"{one.date[:40]}" is no date.', "Write it as 2026-11-25.")
    most = _most_tokens_per_s(one)
    if most is not None and one.output_tokens_per_s is not None and one.output_tokens_per_s > 1.25 * most:
        yield Finding(
            (*here, "output_tokens_per_s"),
            f"{one.output_tokens_per_s:g} is more than {most:.4g}, which concurrency and TPOT allow.",
            "Tokens of the prompt do not count.",
        )


def _holes(index: int, table: ThroughputTable) -> Iterator[Finding]:
    if not table.whole:
        wanted = f"{len(table.input)} rows of {len(table.output)} numbers"
        yield Finding(("throughputs", index, "requests_per_s"), f"expected {wanted}: a row for each input.")


def _most_tokens_per_s(one: Measurement) -> float | None:
    """What so many clients can receive at that time a token."""
    if one.request_rate is not None:
        return one.request_rate * one.output_len
    if one.tpot_ms is None or one.concurrency is None:
        return None
    return one.concurrency * 1000 / one.tpot_ms


def _is_date(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


def _problem(found: Finding, root: Located, file: str) -> Problem:
    line, column = root.place(found.loc, of_key=found.at_key)
    return Problem(file, line, column, path(found.loc), found.message, found.hint)
