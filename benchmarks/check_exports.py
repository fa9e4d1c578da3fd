"""What `llmfleet router show --format …` prints, in the routers themselves: `make check-exports`.

Each loads its configuration and takes a request for every service; the engines are doubles with the answers of vLLM.
HAProxy and nginx come from the system, the others are installed into .cache/peers at the first run. A router that is
not there is said to be missing; one that does not route ends this with an error.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from running import Running, free_ports

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "router"))

from fleets import hosts_of, rag_plan

from llmfleet.launch.router.exports import exported
from llmfleet.planner.plan import Plan, RouterPlan

KEY = "sk-only-for-this-check"  # LiteLLM wants one
PEERS = Path(__file__).parents[1] / ".cache" / "peers"
PACKAGES = {"vllm-router": "vllm-router==0.1.17", "smg": "smg==1.13.*", "litellm": "litellm[proxy]"}
READY_WITHIN_S = 120
CHAT_ONLY = ("smg",)  # its embeddings and reranking want workers of another kind
ASKED = {  # what a client sends for each service, and where
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    "embed": ("/v1/embeddings", {"input": "hello"}),
    "rank": ("/v1/rerank", {"query": "hello", "documents": ["a", "b"]}),
}
SCORE = ("/v1/score", {"text_1": "hello", "text_2": ["a", "b"]})  # of the ranker, for vllm-router
ANSWERS = {
    "/v1/chat/completions": {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    },
    "/v1/embeddings": {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    },
    "/v1/score": {"object": "list", "data": [{"index": 0, "object": "score", "score": 0.9}], "usage": {}},
    "/v1/rerank": {
        "id": "r-1",
        "model": "m",
        "usage": {"total_tokens": 1},
        "results": [{"index": 0, "document": {"text": "a"}, "relevance_score": 0.9}],
    },
}


class Engine(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models, self.received = tuple(models), list[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            data = [{"id": m, "object": "model", "owned_by": "vllm", "max_model_len": 4096} for m in self.server.models]
            self.answer(200, {"object": "list", "data": data})
        else:
            self.answer(200 if self.path in ("/health", "/version") else 404, {"version": "0.32.0"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path if self.path.startswith("/v1") else f"/v1{self.path}"
        if path in ANSWERS:
            self.server.received.append(str(json.loads(body).get("model")))
        self.answer(200 if path in ANSWERS else 404, ANSWERS.get(path, {"error": {"message": path}}))

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # who checks health by connecting hangs up
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@dataclass(frozen=True)
class Router:
    """How one of them is started, and where clients of a service find it."""

    name: str
    form: str
    argv: tuple[tuple[str, ...], ...]  # of each process
    where: dict[str, tuple[int, str]]  # by service: port and what comes before the path
    env: dict[str, str] = field(default_factory=dict)


def installed(tool: str) -> str | None:
    """Its binary: from the system, or from a virtual environment of its own."""
    if tool not in PACKAGES:
        return shutil.which(tool)
    home = PEERS / tool
    binary = home / "bin" / tool
    if not binary.exists():
        print(f"installing {PACKAGES[tool]} into {home}", file=sys.stderr, flush=True)
        subprocess.run((sys.executable, "-m", "venv", str(home)), check=True)
        pip = (str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", PACKAGES[tool])
        if subprocess.run(pip, stderr=subprocess.DEVNULL).returncode:
            shutil.rmtree(home)
            return None
    return str(binary)


def router(tool: str, binary: str, plan: Plan, folder: Path) -> Router:
    form = "vllm-router" if tool == "smg" else tool
    text = exported(form, plan, hosts_of(plan)).text
    path = folder / f"{tool}.conf"
    path.write_text(text)
    port, names = plan.router.port, [s.name for s in plan.services]
    one = dict.fromkeys(names, (port, ""))
    if form == "vllm-router":
        lines = [line.removesuffix(" &") for line in text.splitlines() if line.startswith("vllm-router")]
        start = (binary,) if tool == "vllm-router" else (binary, "launch")
        spread = tuple(str(p) for p in free_ports(len(lines)))
        argv = [_with(shlex.split(line)[1:], "--prometheus-port", spread[n]) for n, line in enumerate(lines)]
        return Router(tool, form, tuple((*start, *a) for a in argv), {s: (port + n, "") for n, s in enumerate(names)})
    if tool == "haproxy":
        return Router(tool, form, ((binary, "-f", str(path)),), one)
    if tool == "nginx":
        own = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;"
        return Router(tool, form, ((binary, "-c", str(path), "-g", own),), {s: (port, f"/{s}") for s in names})
    env = {
        "PATH": f"{Path(binary).parent}:{os.environ['PATH']}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    config = folder / "litellm.yaml"
    path.rename(config)
    argv = (binary, "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    return Router(tool, form, (argv,), one, env)


def _with(argv: Sequence[str], flag: str, value: str) -> list[str]:
    """The argv with another value of the flag."""
    at = list(argv).index(flag) + 1
    return [*argv[:at], value, *argv[at + 1 :]]


@contextmanager
def started(router: Router, log: Path) -> Iterator[list[Running]]:
    processes: list[Running] = []
    try:
        processes += [Running(argv, 0, log=log, env=router.env) for argv in router.argv]
        yield processes
    finally:
        for process in processes:
            process.stop()


def ask(router: Router, service: str) -> int:
    path, body = SCORE if (router.name, service) == ("vllm-router", "rank") else ASKED[service]
    port, before = router.where[service]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        sent = json.dumps({"model": service, **body})
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        connection.request("POST", before + path, sent, headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def check(tool: str, folder: Path) -> str | None:
    """One row of the table; None where it did not route."""
    binary = installed(tool)
    if binary is None:
        return f"| {tool} | not installed here |"
    names = ("chat-a", "chat-b", "chat-c", "chat-long", "lite-a", "embed-a", "rank-a")
    engines = {name: Engine(["chat", "embed", "rank"]) for name in names}
    plan = rag_plan([e.server_address[1] for e in engines.values()])
    first = free_run(len(plan.services))
    plan = replace(plan, router=RouterPlan("head", "127.0.0.1", first, first + 100))
    made, log = router(tool, binary, plan, folder), folder / f"{tool}.log"
    with started(made, log):
        end = time.monotonic() + READY_WITHIN_S
        services = ["chat"] if tool in CHAT_ONLY else list(ASKED)
        status = dict.fromkeys(services, 0)
        while time.monotonic() < end and set(status.values()) != {200}:
            time.sleep(0.5)
            status = {service: ask(made, service) for service in services}
        seen = [name for name, engine in engines.items() if engine.received]
    told = ", ".join(f"{service} {code}" for service, code in status.items())
    if set(status.values()) != {200}:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        print(f"| {tool} | FAILED: {told} |", flush=True)
        return None
    dropped = len(exported(made.form, plan, hosts_of(plan)).dropped)
    return f"| {tool} | {told}; reached {', '.join(seen)}; {dropped} things dropped |"


def free_run(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        (port,) = free_ports(1)
        if port < 60_000 and all(_is_free(port + n) for n in range(count)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", nargs="*", help="haproxy nginx litellm vllm-router smg; all if left out")
    tools = parser.parse_args().tools or ["haproxy", "nginx", "vllm-router", "smg", "litellm"]
    print("| router | a request for each service |\n|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for tool in tools:
            row = check(tool, Path(folder))
            failed |= row is None
            if row:
                print(row, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
