"""What the load generator costs, and whether another one sees the same server. Prints; passes no judgement.

    python benchmarks/client.py cost                       streaming requests a second against a trivial server (Envoy)
    python benchmarks/client.py agree --peer "COMMAND"     medians beside a peer's: aiperf, guidellm or vllm bench

The server of `agree` is a simulated engine (launch/rehearse), which takes the same time for the same requests, and its
users each wait for their answer: arrivals at random times would be others for either. COMMAND is a peer's program, for
example /opt/aiperf/bin/aiperf; its name says which it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
from running import Running, envoy, free_ports, listening, until  # beside this file

from llmfleet.launch.bench.client import Client, address
from llmfleet.launch.bench.figures import Limits, figures
from llmfleet.launch.bench.load import closed
from llmfleet.launch.bench.measure import Bench, Load, Plan, Target
from llmfleet.launch.bench.prompts import Shape
from llmfleet.launch.router.xds import extension

EVENT = 'data: {"id":"x","object":"text_completion","choices":[{"index":0,"text":" a","finish_reason":null}]}\n\n'
USAGE = 'data: {"id":"x","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":8,"total_tokens":108}}\n\n'
TOKENS = 8
TOKENIZER = os.environ.get("PEER_TOKENIZER", "m")  # folder of a tokenizer for peers
VLLM_BENCH = "import argparse\nfrom vllm.benchmarks.serve import add_cli_args, main\np = argparse.ArgumentParser()\n"
VLLM_BENCH += "add_cli_args(p)\nmain(p.parse_args())"  # what `vllm bench serve` runs, also where that command does not
INPUT, OUTPUT, COUNT = 800, 64, 200


def cost(count: int) -> None:
    """Envoy answers with a whole stream of eight tokens at once: as little as a server can do."""
    with tempfile.TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        server = envoy(Path(folder) / "sse.yaml", {"listeners": [_streaming(port)]}, port)
        try:
            where = address(f"http://127.0.0.1:{port}")
            client = Client(where)
            request = client.request("/v1/completions", json.dumps({"model": "m", "prompt": "x" * 400}).encode())
            until(lambda: closed(client, cycle([request]), 1, 1, lambda _: None).samples[0].ok, "the server answers")
            for users in (1, 16, 64):
                run = closed(Client(where), cycle([request]), users, count, lambda _: None)
                got = figures(run, Limits())
                spent = run.cpu * run.seconds / count
                print(
                    f"{users:3} users: {got.requests_per_s:8,.0f} requests/s, {1e6 * spent:5.0f} us of CPU a request: "
                    f"{1 / spent:6,.0f} a second on one core "
                    f"({got.errors or 'no errors'}; {got.client_limited or 'not limited by the client'})"
                )
        finally:
            server.stop()


def _streaming(port: int) -> dict[str, Any]:
    whole = extension("buffer", "envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=1 << 20)
    route = extension("router", "envoy.extensions.filters.http.router.v3.Router")
    headers = [{"header": {"key": "content-type", "value": "text/event-stream"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]  # fmt: skip
    answer = {"status": 200, "body": {"inline_string": EVENT * TOKENS + USAGE + "data: [DONE]\n\n"}}
    match = {"match": {"prefix": "/"}, "direct_response": answer, "response_headers_to_add": headers}
    listener: dict[str, Any] = listening(port, [whole, route], [match])
    return listener


def agree(peer: str, users: int, speed: float) -> None:
    """The peer first; then ours with prompts as long as the server found the peer's to be, on average."""
    with tempfile.TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        server = simulated(Path(folder), port, speed)
        try:
            theirs = _peer(peer, port, users, Path(folder))
            mean = _figure(port, "vllm:prompt_tokens_total") / _figure(port, "vllm:request_success_total")
            before = _ttft(port)
            ours = _ours(port, users, mean)
            own = [now - then for now, then in zip(_ttft(port), before, strict=True)]
        finally:
            server.stop()
    print(f"{users} users in a closed loop, {COUNT} requests, {mean:.0f} tokens in, {OUTPUT} out")
    print(f"{'ms':<16} TTFT p50   TPOT p50    E2E p50   requests/s")
    for name, row in ((Path(peer).name, theirs), ("llmfleet bench", ours)):
        print(f"{name:<16} {row['ttft']:8.1f}   {row['tpot']:8.2f}   {row['e2e']:8.1f}   {row['rps']:8.3f}")
    print(f"{'the server':<16} {1000 * own[0] / own[1]:8.1f}   on average by its own clock, during ours")
    print(f"{'difference':<16} " + "   ".join(f"{ours[k] / theirs[k] - 1:+8.1%}" for k in ours))


def _ttft(port: int) -> tuple[float, float]:
    """Seconds, and how many."""
    return tuple(_figure(port, f"vllm:time_to_first_token_seconds_{part}") for part in ("sum", "count"))  # type: ignore[return-value]


def _figure(port: int, name: str) -> float:
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


def simulated(folder: Path, port: int, speed: float = 1.0) -> Running:
    """A 7B model on one H100, as the planner expects it to be."""
    from llmfleet.planner.catalog import catalog
    from llmfleet.planner.memory.types import Shape as Cut
    from llmfleet.planner.simulate.speeds import Pace, tabled
    from llmfleet.planner.speed.estimate import steps_of

    model = catalog().model("Qwen/Qwen2.5-7B-Instruct")
    if model is None:
        sys.exit("the catalogue lacks the model")
    steps = steps_of(model, catalog().gpu("H100-80G"), Cut(), "bf16", chunk=2048)
    engine = {"seqs": 64, "chunk": 2048, "block": 16, "blocks": 20_000, "longest": 8192, "cap": 256,
              "grid": tabled(Pace(steps, 64, 2048, 8192))}  # fmt: skip
    spec = {
        "id": "bench",
        "host": "127.0.0.1",
        "port": port,
        "names": ["m"],
        "task": "generate",
        "speed": speed,
        "engine": engine,
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    made = Running((sys.executable, "-m", "llmfleet.launch.rehearse.engine", str(path)), port)
    until(lambda: _answers(port), "the simulated engine answers")
    return made


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _ours(port: int, users: int, tokens: float) -> dict[str, float]:
    target = Target("m", address(f"http://127.0.0.1:{port}"), "m", "chat")
    shape = Shape(tokens, None, OUTPUT)
    bench = Bench(target, Plan(shape, Limits(), requests=COUNT, warm=8), lambda *_: None)
    bench.look()
    got = bench.measure(Load(users=users)).figures
    return {"ttft": got.ttft_ms["p50"], "tpot": got.tpot_ms["p50"], "e2e": got.e2e_ms["p50"], "rps": got.requests_per_s}


def _peer(command: str, port: int, users: int, folder: Path) -> dict[str, float]:
    run = {"aiperf": _aiperf, "guidellm": _guidellm}.get(Path(command).name, _vllm)
    start = time.monotonic()
    row = run(command, f"http://127.0.0.1:{port}", users, folder)
    print(f"({Path(command).name}: {time.monotonic() - start:.0f} s from start to end)")
    return row


def _call(argv: list[str], folder: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(folder)}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{argv[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _aiperf(command: str, url: str, users: int, folder: Path) -> dict[str, float]:
    out = folder / "aiperf"
    argv = [command, "profile", "-m", "m", "--url", url, "--endpoint-type", "chat", "--streaming",
            "--tokenizer", "builtin",
            "--concurrency", str(users),
            "--request-count", str(COUNT), "--warmup-request-count", "8",
            "--isl", str(INPUT), "--osl", str(OUTPUT), "--extra-inputs", "ignore_eos:true", "--ui", "none",
            "--artifact-dir", str(out), "--use-server-token-count"]  # fmt: skip
    _call(argv, folder)
    body = json.loads(next(out.rglob("profile_export_aiperf.json")).read_text())
    return {"ttft": body["time_to_first_token"]["p50"], "tpot": body["inter_token_latency"]["p50"],
            "e2e": body["request_latency"]["p50"], "rps": body["request_throughput"]["avg"]}  # fmt: skip


def _guidellm(command: str, url: str, users: int, folder: Path) -> dict[str, float]:
    out = folder / "guidellm.json"
    data = f"prompt_tokens={INPUT},output_tokens={OUTPUT}"
    argv = [command, "benchmark", "run", "--target", url, "--model", "m", "--processor", TOKENIZER,
            "--data", data, "--profile", "concurrent", "--rate", str(users),
            "--max-requests", str(COUNT),
            "--warmup", "0.1", "--outputs", "json", "--output-path", str(out)]  # fmt: skip
    _call(argv, folder)
    body = json.loads(out.read_text())["benchmarks"][0]["metrics"]

    def median(name: str) -> float:
        return float(body[name]["successful"]["percentiles"]["p50"])

    rate = body["requests_per_second"]["successful"]["mean"]
    return {"ttft": median("time_to_first_token_ms"), "tpot": median("inter_token_latency_ms"),
            "e2e": 1000 * median("request_latency"), "rps": rate}  # fmt: skip


def _vllm(command: str, url: str, users: int, folder: Path) -> dict[str, float]:
    """`command` is a Python whose environment has vLLM."""
    out = folder / "vllm.json"
    argv = [command, "-c", VLLM_BENCH, "--backend", "openai-chat", "--base-url", url,
            "--endpoint", "/v1/chat/completions", "--model", "m", "--tokenizer", TOKENIZER, "--dataset-name", "random",
            "--random-input-len", str(INPUT), "--random-output-len", str(OUTPUT), "--num-prompts", str(COUNT),
            "--num-warmups", "8",
            "--max-concurrency", str(users), "--ignore-eos",
            "--save-result", "--result-filename", str(out),
            "--percentile-metrics", "ttft,tpot,itl,e2el"]  # fmt: skip
    _call(argv, folder)
    body = json.loads(out.read_text())
    return {"ttft": body["median_ttft_ms"], "tpot": body["median_tpot_ms"], "e2e": body["median_e2el_ms"],
            "rps": body["request_throughput"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "agree"))
    parser.add_argument("--peer", default="aiperf")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--speed", type=float, default=1.0, help="of the simulated engine; 1: 7B on one H100")
    parser.add_argument("--requests", type=int, default=6000)
    asked = parser.parse_args()
    cost(asked.requests) if asked.what == "cost" else agree(asked.peer, asked.users, asked.speed)


if __name__ == "__main__":
    main()
