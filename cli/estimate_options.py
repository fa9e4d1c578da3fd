"""Options of llmfleet estimate: the engine's own names, so that they can be copied from its command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

UNITS = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}


def whole(text: str) -> int:
    """A number as vLLM takes it: 32k is 32 000, 32K is 32 768 (vllm/engine/arg_utils.py:human_readable_int)."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kKmM]?)", text)
    number = float(found[1]) * UNITS[found[2]] if found else 0.5
    if number != int(number):
        raise typer.BadParameter(f"{text!r} is no whole number, such as 32768, 32K or 32k.")
    return int(number)


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="ID|FOLDER|FILE", help="A known id, or a folder or file with a config.json or GGUF."
    ),
]
ModelFirst = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.", show_default=False)]
GpuName = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="As drivers or people write it; `all`: a row a GPU; `custom`: give its memory.",
    ),
]
GpuMemory = Annotated[float | None, typer.Option("--gpu-memory-gib", help="What CUDA shows as the total.")]
Tp = Annotated[int, typer.Option("--tp", "-tp", "--tensor-parallel-size", help="Tensor parallelism.")]
Pp = Annotated[int, typer.Option("--pp", "-pp", "--pipeline-parallel-size", help="Pipeline parallelism.")]
Ep = Annotated[
    bool,
    typer.Option(
        "--ep/--no-ep",
        "--enable-expert-parallel/--no-enable-expert-parallel",
        help="Whole experts on each rank.",
    ),
]
PpPartition = Annotated[str | None, typer.Option("--pp-partition", metavar="N,N,…", help="Layers of each stage.")]
Quantization = Annotated[str | None, typer.Option("--quantization", help="As if quantized so: fp8, awq, gptq-int4, …")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, bfloat16, float16, float32.")]
KvCacheDtype = Annotated[str | None, typer.Option("--kv-cache-dtype", help="auto, bfloat16, fp8, …")]
Utilization = Annotated[
    float | None, typer.Option("--gpu-memory-utilization", help="Part of the GPU that vLLM may take.")
]
MaxModelLen = Annotated[
    int | None,
    typer.Option("--max-model-len", parser=whole, metavar="N", help="Longest prompt and answer, in tokens."),
]
MaxNumSeqs = Annotated[int | None, typer.Option("--max-num-seqs", help="Requests in one batch.")]
MaxNumBatchedTokens = Annotated[
    int | None,
    typer.Option("--max-num-batched-tokens", parser=whole, metavar="N", help="Tokens in one batch."),
]
BlockSize = Annotated[int | None, typer.Option("--block-size", help="Tokens of a KV block.")]
PrefixCaching = Annotated[
    bool | None,
    typer.Option("--enable-prefix-caching/--no-enable-prefix-caching", help="Takes a state more of recurrent layers."),
]
EnforceEager = Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")]
LanguageModelOnly = Annotated[bool, typer.Option("--language-model-only", help="No encoders for images and sound.")]
KvCacheMemory = Annotated[
    int | None, typer.Option("--kv-cache-memory-bytes", min=1, help="The KV cache of a GPU, whatever profiling says.")
]
VllmVersion = Annotated[str | None, typer.Option("--vllm-version", metavar="VERSION", help="Newest known if left out.")]
InputLen = Annotated[float, typer.Option("--input-len", help="Tokens of a prompt, for speed.")]
OutputLen = Annotated[float, typer.Option("--output-len", help="Tokens of an answer, for speed.")]
Concurrency = Annotated[float | None, typer.Option("--concurrency", help="Requests at once, for speed.")]
RequestRate = Annotated[float | None, typer.Option("--request-rate", help="Requests a second, for speed.")]
PrefixHit = Annotated[
    float, typer.Option("--prefix-hit", min=0, max=1, help="Part of prompts that the prefix cache holds, for speed.")
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option("--calibration", metavar="FILE", help="Measured figures of such GPUs: docs/calibration.md."),
]
ListGpus = Annotated[bool, typer.Option("--list-gpus", help="Name the GPUs that are known, and stop.")]
Online = Annotated[bool, typer.Option("--online", help="Ask the hub or HF_ENDPOINT for an unknown model.")]
