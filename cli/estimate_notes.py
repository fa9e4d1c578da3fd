"""What an estimate takes as asked for, though the engine would not do it."""

from __future__ import annotations

from collections.abc import Iterator

from llmfleet.cli.output import grouped
from llmfleet.planner.candidates.engines import too_old, version_problem
from llmfleet.planner.catalog import catalog
from llmfleet.planner.memory.settings import Settings
from llmfleet.planner.model.gguf import GGUF_TYPES
from llmfleet.planner.speed.instance import Load


def notes(settings: Settings, load: Load) -> tuple[str, ...]:
    return tuple(filter(None, (*_engine(settings), _length(settings, load))))


def _engine(s: Settings) -> Iterator[str]:
    precision = s.model.native_quantization or s.dtype
    if precision not in GGUF_TYPES:  # those are llama.cpp's
        yield version_problem(s.version, s.gpu, catalog())
        yield too_old(catalog().quantization(precision), s.gpu)


def _length(s: Settings, load: Load) -> str:
    tokens = round(load.input_len + (load.output_len if s.model.task == "generate" else 0))
    if tokens <= s.max_model_len:
        return ""
    most = f"{grouped(s.max_model_len)}, which is what --max-model-len allows"
    return f"a request of {grouped(tokens)} tokens is longer than {most}: the engine refuses it"
