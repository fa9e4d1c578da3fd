#!/usr/bin/env python3
"""Serves a GGUF model over HTTP with llama.cpp, out of the xllamacpp package of the Python that runs this.

SIGTERM: running requests finish within --drain seconds, then it ends. Stand-alone: Python 3.8, as the package.
"""

import argparse
import os
import re
import signal
import sys
import threading
import time
from typing import Any, List

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
ALL_LAYERS = 999


def parse(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serves a GGUF model over HTTP.")
    parser.add_argument("--model", required=True, help="GGUF file, or a folder that holds one")
    parser.add_argument("--name", action="append", required=True, help="model name in requests; may be repeated")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--task", choices=("generate", "embed", "rerank"), default="generate")
    parser.add_argument("--slots", type=int, default=1, help="requests at once")
    parser.add_argument("--context", type=int, default=4096, help="tokens of one slot")
    parser.add_argument("--batch", type=int, default=512, help="tokens of one step")
    parser.add_argument("--kv-type", choices=KV_TYPES, default="f16")
    parser.add_argument("--gpu-layers", default="all", help="a number, or all")
    parser.add_argument("--threads", type=int, help="CPU threads; as many as cores if left out")
    parser.add_argument("--drain", type=float, default=25.0, help="seconds for running requests after SIGTERM")
    return parser.parse_args(argv)


def gguf_file(path: str) -> str:
    """The file itself, or the first part of the only model in a folder."""
    if not os.path.isdir(path):
        return path
    names = sorted(name for name in os.listdir(path) if name.endswith(".gguf"))
    if not names:
        sys.exit("error: %s holds no .gguf file" % path)
    return os.path.join(path, names[0])


def parameters(asked: argparse.Namespace, xllamacpp: Any) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = gguf_file(asked.model)
    params.model_alias = set(asked.name)
    params.hostnames = [asked.host]
    params.port = asked.port
    params.n_parallel = asked.slots
    params.n_ctx = asked.slots * asked.context  # llama.cpp gives each slot an equal part
    params.fit_params = False  # the plan has sized it; nothing is to be adjusted behind its back
    params.n_ubatch = asked.batch
    params.n_batch = max(asked.batch, asked.context if asked.task != "generate" else asked.batch)
    kv_type = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + asked.kv_type.upper())
    params.cache_type_k = params.cache_type_v = kv_type
    params.n_gpu_layers = ALL_LAYERS if asked.gpu_layers == "all" else int(asked.gpu_layers)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads or os.cpu_count() or 1
    params.endpoint_metrics = True
    params.endpoint_slots = False  # it shows prompts to whoever asks
    params.ui = False
    if os.environ.get("LLAMA_API_KEY"):  # as llama-server reads it
        params.api_keys = [os.environ["LLAMA_API_KEY"]]
    if asked.task != "generate":
        params.embedding = True
        params.n_ubatch = params.n_batch  # an encoder takes each input in one piece
    if asked.task == "rerank":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return params


def unfinished(server: Any) -> int:
    counts = re.findall(r"^llamacpp:requests_(?:processing|deferred) (\d+)", str(server.handle_metrics()), re.MULTILINE)
    return sum(int(count) for count in counts)


def main() -> None:
    asked = parse(sys.argv[1:])
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    import xllamacpp

    server = xllamacpp.Server(parameters(asked, xllamacpp))
    print("serving %s at %s" % (", ".join(asked.name), server.listening_address), flush=True)
    while not told.wait(3600):
        pass
    deadline = time.monotonic() + asked.drain
    while unfinished(server) and time.monotonic() < deadline:
        time.sleep(0.2)
    os._exit(0)  # its destructor waits for clients that keep their connection open


if __name__ == "__main__":
    main()
