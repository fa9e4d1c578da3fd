"""Real vLLM with a real prefix cache behind our router and others: `make bench-prefix`, about ten minutes.

Questions on documents that together need three times one instance's KV cache; two fast instances and one slow. The
engines are vLLM on CPU from the lab's environment (`make lab` builds it) with a small model of random weights: what it
answers is noise, what it caches is not. Every policy gets the same questions in the same order, from empty caches; all
of them twice, the second time in reverse order, since others' load on the machine comes and goes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from check_exports import installed
from running import KEY, Running, free_ports, our_router, until

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.lab.engines import EngineEnv, engine_env

DOCUMENT_TOKENS, CACHED_DOCUMENTS, DOCUMENTS = 3200, 7, 21
KV_BYTES_A_TOKEN = 2 * 4 * 2 * 32 * 2  # keys and values, 4 layers, 2 heads of 32, two bytes each
WEIGHTS = {"fast-1": 100, "fast-2": 100, "slow": 50}
NICE = {"slow": 10}
WARM, MEASURED, CLIENTS = 60, 180, 4
START_WITHIN_S = 300


@dataclass(frozen=True)
class Result:
    ttft_s: tuple[float, ...]
    hit_rate: float
    failed: int


def vllm(env: EngineEnv, name: str, port: int, documents: int, log: Path) -> Running:
    kv = documents * (DOCUMENT_TOKENS + 200) * KV_BYTES_A_TOKEN
    argv = (
        *("nice", "-n", str(NICE.get(name, 0))),
        *(str(env.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(env.chat), "--served-model-name", "chat"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--enforce-eager"),
        *("--max-model-len", "4096", "--max-num-seqs", "8", "--max-num-batched-tokens", "4096"),
        *("--kv-cache-memory-bytes", str(kv), "--gpu-memory-utilization", "0.05"),
        *("--middleware", "hold_headers.HoldHeaders", "--disable-access-log-for-endpoints", "/health,/metrics"),
    )
    environment = {
        "VLLM_PLUGINS": "",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_CACHE_ROOT": str(env.models / "vllm-cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT / "launch" / "remote"),
    }
    return Running(argv, port, log=log, env=environment)


def documents(tokens_a_word: float) -> list[str]:
    chance = random.Random(7)  # noqa: S311
    words = (ROOT / "LICENSE").read_text().split()
    return [" ".join(chance.choices(words, k=int(DOCUMENT_TOKENS / tokens_a_word))) for _ in range(DOCUMENTS)]


def questions(texts: Sequence[str]) -> list[bytes]:
    """Documents by Zipf's law with exponent 1; each question is another one."""
    chance = random.Random(8)  # noqa: S311
    chosen = chance.choices(range(DOCUMENTS), [1 / rank for rank in range(1, DOCUMENTS + 1)], k=WARM + MEASURED)
    return [
        json.dumps(
            {
                "model": "chat",
                "messages": [{"role": "user", "content": f"{texts[d]}\n\nQuestion {n}: what of it?"}],
                "stream": True,
                "max_tokens": 2,
            }
        ).encode()
        for n, d in enumerate(chosen)
    ]


def first_token_s(port: int, body: bytes) -> float | None:
    """Seconds to the first token; None where it failed."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
    begun = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            first = None
            for line in answer:
                if first is None and line.startswith(b"data: {") and b'"content":"' in line.replace(b": ", b":"):
                    first = time.monotonic() - begun
            return first or time.monotonic() - begun
    except OSError:
        return None


def measured(port: int, engines: Sequence[Running], bodies: Sequence[bytes]) -> Result:
    for engine in engines:
        _post(engine.port, "/reset_prefix_cache")
    _all(port, bodies[:WARM])
    before = [_counters(engine.port) for engine in engines]
    found = _all(port, bodies[WARM:])
    after = [_counters(engine.port) for engine in engines]
    hits, asked = (sum(a[n] - b[n] for a, b in zip(after, before, strict=True)) for n in (0, 1))
    times = tuple(t for t in found if t is not None)
    return Result(times, hits / asked if asked else 0.0, len(found) - len(times))


def _all(port: int, bodies: Sequence[bytes]) -> list[float | None]:
    found: list[float | None] = [None] * len(bodies)
    queue, lock = iter(range(len(bodies))), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                n = next(queue, None)
            if n is None:
                return
            found[n] = first_token_s(port, bodies[n])

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _counters(port: int) -> tuple[float, float]:
    """Tokens found in the prefix cache, and tokens looked for."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return _value(text, "hits"), _value(text, "queries")


def _value(metrics: str, name: str) -> float:
    found = re.search(rf"^vllm:prefix_cache_{name}_total(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _post(port: int, path: str, body: object = None) -> bytes:
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return bytes(answer.read())


def _answers(port: int, path: str = "/health") -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# --- routers ----------------------------------------------------------------------------------------------------------


def peer(tool: str, policy: str, engines: Sequence[Running], log: Path) -> Running | None:
    binary = installed(tool)
    if binary is None:
        return None
    port, metrics = free_ports(2)
    start = (binary,) if tool == "vllm-router" else (binary, "launch")
    urls = [f"http://127.0.0.1:{e.port}" for e in engines]
    argv = (*start, "--host", "127.0.0.1", "--port", str(port), "--policy", policy, "--prometheus-port", str(metrics))
    return Running((*argv, "--worker-urls", *urls), port, log=log)


POLICIES = (
    ("vllm-router", "round_robin"),
    ("vllm-router", "cache_aware"),
    ("vllm-router", "power_of_two"),
    ("smg", "cache_aware"),
    ("smg", "prefix_hash"),
)


def routers(folder: Path, engines: Sequence[Running]) -> Iterator[tuple[str, Callable[[], Running | None]]]:
    ports = [engine.port for engine in engines]
    yield "llmfleet", lambda: our_router(folder, ports, weights=WEIGHTS)
    for tool, policy in POLICIES:
        yield f"{tool} {policy}", lambda t=tool, p=policy: peer(t, p, engines, folder / f"{t}-{p}.log")  # type: ignore[misc]


def works(port: int, body: bytes) -> bool:
    return first_token_s(port, body) is not None


# --- the table --------------------------------------------------------------------------------------------------------


@contextmanager
def running(processes: Sequence[Running]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.stop()


def row(name: str, result: Result) -> str:
    times = sorted(result.ttft_s) or [0.0]
    mean, p95 = statistics.fmean(times), times[int(0.95 * (len(times) - 1))]
    return f"| {name} | {result.hit_rate:.3f} | {1000 * mean:.0f} ms | {1000 * p95:.0f} ms | {result.failed} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-peers", action="store_true", help="our router alone")
    alone = parser.parse_args().without_peers
    env = engine_env(lambda text: print(text, file=sys.stderr, flush=True))
    print("| router | prefix hit rate | mean TTFT | p95 | failed |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        giant = [vllm(env, "giant", free_ports(1)[0], 3 * CACHED_DOCUMENTS, folder / "giant.log")]
        with running(giant):
            until(lambda: _answers(giant[0].port), "vLLM, see its log", START_WITHIN_S)
            sample = " ".join((ROOT / "LICENSE").read_text().split())
            counted = json.loads(_post(giant[0].port, "/tokenize", {"model": "chat", "prompt": sample[:8000]}))["count"]
            bodies = questions(documents(counted / len(sample[:8000].split())))
            print(row("one instance with three times the cache", measured(giant[0].port, giant, bodies)), flush=True)
        engines = [
            vllm(env, name, port, CACHED_DOCUMENTS, folder / f"{name}.log")
            for name, port in zip(WEIGHTS, free_ports(3), strict=True)
        ]
        with running(engines):
            for engine in engines:
                until(lambda e=engine: _answers(e.port), "vLLM, see its log", START_WITHIN_S)  # type: ignore[misc]
            candidates = list(routers(folder, engines))[: 1 if alone else None]
            for name, start in (*candidates, *reversed(candidates)):
                process = start()
                if process is None:
                    print(f"| {name} | not installed here | | | |", flush=True)
                    continue
                with running([process]):
                    until(lambda p=process: works(p.port, bodies[0]), f"{name} ready", 120)  # type: ignore[misc]
                    print(row(name, measured(process.port, engines, bodies)), flush=True)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
