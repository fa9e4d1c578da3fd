"""Real vLLM with a real prefix cache behind our router and others: `make bench-prefix`, about ten minutes.

Questions on documents that together need three times one instance's KV cache; two fast instances and one slow. The
engines are vLLM on CPU from the lab's environment (`make lab` builds it) with a small model of random weights: what it
answers is noise, what it caches is not. Every policy gets the same questions in the same order, from empty caches.

All of it on four sets of documents, forwards and backwards in turn: which documents a hash puts together is luck, and
others' load on the machine comes and goes.
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
WARM, MEASURED, CLIENTS, SETS = 60, 180, 4, 4
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


def documents(tokens_a_word: float, seed: int) -> list[str]:
    chance = random.Random(seed)  # noqa: S311
    words = (ROOT / "LICENSE").read_text().split()
    return [" ".join(chance.choices(words, k=int(DOCUMENT_TOKENS / tokens_a_word))) for _ in range(DOCUMENTS)]


def questions(texts: Sequence[str], seed: int) -> list[bytes]:
    """Documents by Zipf's law with exponent 1; each question is another one."""
    chance = random.Random(seed)  # noqa: S311
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


def row(name: str, results: Sequence[Result]) -> str:
    """Means over the sets, and of the time to the first token each set's."""
    if not results:
        return f"| {name} | not installed here | | | | |"
    means = [1000 * statistics.fmean(r.ttft_s or (0.0,)) for r in results]
    late = [1000 * sorted(r.ttft_s or (0.0,))[int(0.95 * max(0, len(r.ttft_s) - 1))] for r in results]
    each, hits = ", ".join(f"{mean:.0f}" for mean in means), statistics.fmean(r.hit_rate for r in results)
    figures = f"{hits:.3f} | {statistics.fmean(means):.0f} ms | {each} | {statistics.fmean(late):.0f} ms"
    return f"| {name} | {figures} | {sum(r.failed for r in results)} |"


def tokens_a_word(port: int) -> float:
    sample = " ".join((ROOT / "LICENSE").read_text().split())[:8000]
    counted = json.loads(_post(port, "/tokenize", {"model": "chat", "prompt": sample}))["count"]
    return float(counted / len(sample.split()))


def of_the_giant(env: EngineEnv, folder: Path) -> tuple[list[list[bytes]], list[Result]]:
    """Every set's questions, which are as long as its tokenizer says, and what one large cache makes of them."""
    giant = [vllm(env, "giant", free_ports(1)[0], 3 * CACHED_DOCUMENTS, folder / "giant.log")]
    with running(giant):
        until(lambda: _answers(giant[0].port), "vLLM, see its log", START_WITHIN_S)
        length = tokens_a_word(giant[0].port)
        sets = [questions(documents(length, seed), seed + SETS) for seed in range(SETS)]
        return sets, [measured(giant[0].port, giant, bodies) for bodies in sets]


def of_routers(env: EngineEnv, folder: Path, sets: Sequence[list[bytes]], *, alone: bool) -> dict[str, list[Result]]:
    ports = free_ports(len(WEIGHTS))
    engines = [
        vllm(env, n, p, CACHED_DOCUMENTS, folder / f"{n}.log") for n, p in zip(WEIGHTS, ports, strict=True)
    ]
    with running(engines):
        for engine in engines:
            until(lambda e=engine: _answers(e.port), "vLLM, see its log", START_WITHIN_S)  # type: ignore[misc]
        candidates = list(routers(folder, engines))[: 1 if alone else None]
        found: dict[str, list[Result]] = {name: [] for name, _ in candidates}
        for n, bodies in enumerate(sets):
            for name, start in candidates if n % 2 == 0 else reversed(candidates):
                process = start()
                if process is None:
                    continue
                with running([process]):
                    until(lambda p=process, b=bodies: works(p.port, b[0]), f"{name} ready", 120)  # type: ignore[misc]
                    found[name].append(measured(process.port, engines, bodies))
                print(f"set {n + 1}: {row(name, found[name][-1:])}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-peers", action="store_true", help="our router alone")
    alone = parser.parse_args().without_peers
    env = engine_env(lambda text: print(text, file=sys.stderr, flush=True))
    with tempfile.TemporaryDirectory() as name:
        sets, giant = of_the_giant(env, Path(name))
        found = of_routers(env, Path(name), sets, alone=alone)
    print("| router | prefix hit rate | mean TTFT | of each set | p95 | failed |\n|---|---|---|---|---|---|")
    print(row("one instance with three times the cache", giant))
    for policy, results in found.items():
        print(row(policy, results))
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
