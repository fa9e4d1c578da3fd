"""llmfleet estimate."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmfleet.cli import estimate_options as o
from llmfleet.cli.estimate_notes import notes
from llmfleet.cli.options import Json
from llmfleet.cli.output import grouped
from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.errors import FleetError, InputError, UnknownNameError
from llmfleet.planner.memory.estimate import estimate as budget
from llmfleet.planner.memory.settings import resolve
from llmfleet.planner.memory.types import EngineOptions, Memory, Shape
from llmfleet.planner.model.precision import meant
from llmfleet.planner.speed.instance import Load, instance_speed

if TYPE_CHECKING:
    from llmfleet.planner.figures import Expected
    from llmfleet.planner.model.types import Model

INPUT_TOKENS, OUTPUT_TOKENS = 1024, 256
MOST = 1e9  # tokens, requests, requests a second: beyond is a slip of the hand


def estimate(
    model_first: o.ModelFirst = None,
    model: o.ModelName = None,
    gpu: o.GpuName = None,
    gpu_memory_gib: o.GpuMemory = None,
    tp: o.Tp = 1,
    pp: o.Pp = 1,
    ep: o.Ep = False,
    pp_partition: o.PpPartition = None,
    quantization: o.Quantization = None,
    dtype: o.Dtype = None,
    kv_cache_dtype: o.KvCacheDtype = None,
    gpu_memory_utilization: o.Utilization = None,
    max_model_len: o.MaxModelLen = None,
    max_num_seqs: o.MaxNumSeqs = None,
    max_num_batched_tokens: o.MaxNumBatchedTokens = None,
    block_size: o.BlockSize = None,
    enable_prefix_caching: o.PrefixCaching = None,
    enforce_eager: o.EnforceEager = False,
    language_model_only: o.LanguageModelOnly = False,
    kv_cache_memory_bytes: o.KvCacheMemory = None,
    vllm_version: o.VllmVersion = None,
    input_len: o.InputLen = float(INPUT_TOKENS),
    output_len: o.OutputLen = float(OUTPUT_TOKENS),
    concurrency: o.Concurrency = None,
    request_rate: o.RequestRate = None,
    prefix_hit: o.PrefixHit = 0.0,
    calibration: o.CalibrationFile = None,
    list_gpus: o.ListGpus = False,
    online: o.Online = False,
    as_json: Json = False,
) -> None:
    """Memory budget and speed of one model on one GPU shape. Needs no inventory and touches no machine.

    Options that are left out take that vLLM version's own defaults.

    \b
    Examples:
      llmfleet estimate Qwen/Qwen3-8B --gpu L4                            memory, tokens, speed
      llmfleet estimate --model Qwen/Qwen2.5-72B-Instruct --gpu all --tp 4  where would it fit?
      llmfleet estimate --model ./checkpoint --gpu custom --gpu-memory-gib 47.5 --json
      llmfleet estimate --model Qwen/Qwen3-32B --gpu H100 --tp 2 --input-len 4000 --output-len 300 --concurrency 64
      llmfleet estimate --model Qwen/Qwen3-8B --gpu L4 --request-rate 2 --calibration calibration.yaml
    """
    if list_gpus:
        return _list_gpus(as_json)
    model, gpu = _asked(model_first, model, gpu)
    shape = Shape(tp, pp, ep, _partition(pp_partition))
    options = EngineOptions(
        version=vllm_version, dtype=dtype, quantization=quantization, kv_cache_dtype=kv_cache_dtype,
        gpu_memory_utilization=gpu_memory_utilization, max_model_len=max_model_len, max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens, block_size=block_size, enforce_eager=enforce_eager,
        enable_prefix_caching=enable_prefix_caching, kv_cache_memory_bytes=kv_cache_memory_bytes,
        language_model_only=language_model_only,
    )  # fmt: skip
    load = _load(input_len, output_len, concurrency, request_rate, prefix_hit)
    facts, options, assumed = _model(model, shape, options, online=online, quiet=as_json)
    if gpu == "all":
        return _all_gpus(facts, shape, options, assumed, as_json, of_one=gpu_memory_gib or calibration)
    return _one_gpu(facts, _gpu(gpu, gpu_memory_gib, calibration, facts), shape, options, load, assumed, as_json)


def _asked(model_first: str | None, model: str | None, gpu: str | None) -> tuple[str, str]:
    if model and model_first and model != model_first:
        raise InputError(f"two models: {model_first} and --model {model}", hint="One estimate is of one model.")
    model = model or model_first
    if model is None or gpu is None:
        raise InputError("a model and --gpu are needed", hint="llmfleet estimate Qwen/Qwen3-8B --gpu L4")
    return model, gpu


def _one_gpu(
    model: Model, gpu: Gpu, shape: Shape, options: EngineOptions, load: Load, assumed: str | None, as_json: bool
) -> None:
    memory = budget(model, gpu, shape, options)
    speed = _speed(model, gpu, shape, options, memory, load)
    said = notes(resolve(model, gpu, shape, options), load)
    if as_json:
        return _echo(as_document(memory, speed, assumed) | {"notes": said})
    from llmfleet.cli.render.memory import show

    return show(model, gpu, shape, options, memory, speed, said)


def as_document(memory: Memory, speed: Expected | None, assumed: str | None) -> dict[str, Any]:
    """The contract of --json."""
    cache = memory.kv
    figures = asdict(speed) if speed else None
    return {
        "fits": memory.fits,
        "reason": memory.reason,
        "assumed": assumed,
        "per_gpu": _rounded(asdict(memory.tightest)),
        "ranks": [
            {"rank": r.rank, "pp_stage": r.pp_stage, "tp_rank": r.tp_rank, **_rounded(asdict(r.budget))}
            for r in memory.ranks
        ],
        "kv_cache": {
            "bytes_per_token": cache.bytes_per_token if cache else 0,
            "block_size": cache.block_size if cache else None,
            "gpu_blocks": cache.gpu_blocks if cache else 0,
            "tokens": cache.tokens if cache else 0,
            "max_concurrency": round(cache.max_concurrency, 4) if cache else None,
            "bytes_per_block": cache.bytes_per_block if cache else 0,
        },
        "performance": figures
        and {
            **figures,
            "ttft_ms_range": list(figures["ttft_ms_range"]),
            "tpot_ms_range": list(figures["tpot_ms_range"]),
        },
    }


def _rounded(budget: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in budget.items()}


def _echo(document: Any) -> None:
    import json

    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _partition(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f'--pp-partition "{text}": whole numbers with commas are needed', hint="For example 20,20,22,18."
        ) from None


def _model(
    name: str, shape: Shape, options: EngineOptions, *, online: bool, quiet: bool
) -> tuple[Model, EngineOptions, str | None]:
    """With the options as this checkpoint takes them and what was assumed of it.

    Raises InputError also where TP does not divide it.
    """
    found, assumed = _found(name, online=online)
    quantization = meant(found, options.quantization)
    if problem := found.tp_problem(shape.tp, quantization, ep=shape.ep):
        raise InputError(problem, hint=_tp_hint(found, quantization, shape))
    if assumed and not quiet:
        typer.echo(f"note: {assumed}.", err=True)
    return found, replace(options, quantization=quantization), assumed


def _found(name: str, *, online: bool) -> tuple[Model, str | None]:
    """And what was assumed, where a name alone was to go by."""
    from llmfleet.launch.models.files import likely_model, read_model, resolve_model

    try:
        return resolve_model(name, base=Path.cwd()), None
    except InputError as error:
        if not online:
            likely = likely_model(name) if isinstance(error, UnknownNameError) else None
            if likely is None:
                raise
            return likely
        from llmfleet.launch.models.hub import fetched_config

        with fetched_config(name) as config:
            return replace(read_model(config), name=name), None


def _tp_hint(model: Model, quantization: str | None, shape: Shape) -> str:
    usual = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
    possible = (str(tp) for tp in usual if not model.tp_problem(tp, quantization, ep=shape.ep))
    whole = not shape.ep and not model.tp_problem(shape.tp, quantization, ep=True)
    return f"Possible are {', '.join(possible)}." + (f" With --ep, {shape.tp} too." if whole else "")


def _gpu(name: str, memory_gib: float | None, calibration: Path | None, model: Model) -> Gpu:
    if memory_gib is not None and not 0 < memory_gib < 1e6:
        raise InputError(f"--gpu-memory-gib {memory_gib:g}: a positive number is needed")
    if name == "custom":
        return _custom(memory_gib)
    from llmfleet.planner.catalog import catalog

    known = catalog()
    if calibration is not None:
        from llmfleet.cli.calibration import with_calibration

        known = with_calibration(known, calibration, lambda name: model if name == model.name else None)
    found = known.gpu(name)
    return replace(found, visible_gib=memory_gib) if memory_gib else found


def _custom(memory_gib: float | None) -> Gpu:
    """An unknown card: its memory is given, the rest is taken from an Ampere data-centre card without NVLink."""
    if memory_gib is None:
        raise InputError("--gpu custom needs --gpu-memory-gib")
    from llmfleet.planner.catalog import catalog

    return replace(
        catalog().gpu("A10"), name="custom", visible_gib=memory_gib, memory_mib=int(memory_gib * 1024), calibrated=False
    )


def _speed(model: Model, gpu: Gpu, shape: Shape, options: EngineOptions, memory: Memory, load: Load) -> Expected | None:
    """None where nothing runs, or nothing is known of this kind of GPU's speed."""
    if not memory.fits and not (memory.kv and memory.kv.tokens):  # a shorter context would fit
        return None
    try:
        return instance_speed(model, gpu, shape, options, load, memory=memory)
    except InputError:
        raise
    except FleetError:
        return None


def _load(input_len: float, output_len: float, concurrency: float | None, rate: float | None, hit: float) -> Load:
    if concurrency is not None and rate is not None:
        raise InputError("--concurrency and --request-rate exclude each other", hint="Give one of the two.")
    asked = {"input-len": input_len, "output-len": output_len, "concurrency": concurrency, "request-rate": rate}
    for name, value in asked.items():
        if value is not None and not 0 < value <= MOST:  # nor is "not a number"
            raise InputError(f"--{name} {value:g}: a number above 0 is needed, and up to {grouped(int(MOST))}")
    if not 0 <= hit <= 1:
        raise InputError(f"--prefix-hit {hit:g}: a part is needed, from 0 to 1")
    return Load(input_len, output_len, 1.0 if concurrency is None and rate is None else concurrency, rate, hit)


def _list_gpus(as_json: bool) -> None:
    from llmfleet.planner.catalog import catalog

    if as_json:
        return _echo(
            {
                "gpus": [
                    {"name": g.name, "memory_gib": g.visible_gib, "aliases": list(g.aliases)} for g in catalog().gpus
                ]
            }
        )
    for card in catalog().gpus:
        capability = ".".join(map(str, card.compute_capability)) if card.compute_capability else card.arch
        typer.echo(f"{card.name:<18} {card.visible_gib:>7.1f} GiB  {capability:<9} {', '.join(card.aliases)}")
    return None


def _all_gpus(
    model: Model, shape: Shape, options: EngineOptions, assumed: str | None, as_json: bool, of_one: object
) -> None:
    """Where would this model fit? `of_one`: what was given that only one GPU can have."""
    if of_one is not None:
        raise InputError(
            "--gpu all takes the memory of each GPU from the catalogue",
            hint="Leave out --gpu-memory-gib and --calibration, or name one GPU.",
        )
    from llmfleet.planner.catalog import catalog

    rows = [(card, budget(model, card, shape, options)) for card in catalog().gpus]
    if as_json:
        return _echo({"gpus": [{"gpu": card.name, **as_document(memory, None, assumed)} for card, memory in rows]})
    from llmfleet.cli.render.memory import show_all

    return show_all(model, shape, rows)
