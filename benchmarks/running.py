"""What the router benchmark starts: engines (doubles), plain Envoy, a peer, and our own router."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmfleet.launch.router.clients import ClientKey
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.process import ALONE, HOT_RESTART, envoy_command
from llmfleet.launch.router.xds import Json, extension, to_yaml
from llmfleet.planner.plan import Budget, Expected, Instance, Plan, Pool, RouterPlan, ServicePlan

CHAT = "/v1/chat/completions"
WEIGHTS = {"a": 100, "b": 50, "c": 25}
KEY, LOW_KEY = "sk-benchmark", "sk-another-one"
KEYS = (ClientKey("bench", KEY, rate=100_000), ClientKey("other", LOW_KEY, low=True))
RESTARTER = Path(__file__).parents[1] / "launch" / "remote" / HOT_RESTART
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ENVOY = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or "envoy"


class Running:
    """A process of ours, on a port."""

    def __init__(
        self,
        argv: Sequence[str],
        port: int,
        *,
        log: Path = Path(os.devnull),
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.argv, self.port, self.log, self.env = tuple(argv), port, log, {**os.environ, **(env or {})}
        self.folder = folder
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, env=self.env, cwd=self.folder)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def cpu_s(self) -> float:
        """Of all its threads, to the nanosecond."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(condition: Callable[[], bool], what: str, limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)


# --- engines and peers ------------------------------------------------------------------------------------------------


def listening(port: int, filters: list[Json], routes: list[Json], host: str = "127.0.0.1") -> Json:
    table = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
    http = extension("http", HCM, stat_prefix="http", http_filters=filters, route_config=table)
    return {
        "address": {"socket_address": {"address": host, "port_value": port}},
        "filter_chains": [{"filters": [http]}],
    }


ROUTER = extension("router", "envoy.extensions.filters.http.router.v3.Router")
MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "x" * 200}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550}
COMPLETION = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [MESSAGE], "usage": USAGE}
ANSWER = {"status": 200, "body": {"inline_string": json.dumps(COMPLETION)}}


def engine(folder: Path, port: int, delay: str, *, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> Running:
    """`inside`: what comes before its command line, to run it elsewhere than here."""
    fault = extension(
        "fault",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        delay={"fixed_delay": delay, "percentage": {"numerator": 100}},
        headers=[{"name": ":method", "string_match": {"exact": "POST"}}],
    )
    # An answer before the request is all there would end the connection, and each request would pay for a new one.
    whole = extension("buffer", "envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=64 << 20)
    routes = [{"match": {"prefix": "/"}, "direct_response": ANSWER}]
    filters = [fault, whole, ROUTER] if delay else [whole, ROUTER]
    listener = listening(port, filters, routes, host)
    return envoy(folder / f"engine-{port}.yaml", {"listeners": [listener]}, port, inside)


def envoy(path: Path, resources: Json, port: int, inside: Sequence[str] = ()) -> Running:
    path.write_text(to_yaml({"static_resources": resources}))
    return Running((*inside, ENVOY, "-c", str(path), "--concurrency", "1", "--log-level", "off", *ALONE), port)


def plain_envoy(folder: Path, engines: Sequence[int]) -> Running:
    """A proxy that only balances: what all else is measured against."""
    (port,) = free_ports(1)
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}} for p in engines
    ]
    cluster = {
        "name": "all",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "all", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "all"}}]
    resources = {"clusters": [cluster], "listeners": [listening(port, [ROUTER], routes)]}
    return envoy(folder / "plain.yaml", resources, port)


def vllm_router(binary: str, policy: str, engines: Sequence[int]) -> Running:
    port, metrics = free_ports(2)
    urls = [f"http://127.0.0.1:{p}" for p in engines]
    quiet = ("--log-level", "error", "--prometheus-port", str(metrics))
    return Running((binary, "--port", str(port), "--policy", policy, *quiet, "--worker-urls", *urls), port)


def litellm(binary: str, folder: Path, engines: Sequence[int]) -> Running:
    """Its proxy with one worker and no log: the least it can cost."""
    (port,) = free_ports(1)
    where = [f"http://127.0.0.1:{p}/v1" for p in engines]
    deployments = [{"model": "openai/m", "api_base": w, "api_key": "x"} for w in where]
    models = [{"model_name": "chat", "litellm_params": deployment} for deployment in deployments]
    path = folder / "litellm.yaml"
    path.write_text(to_yaml({"model_list": models, "general_settings": {"master_key": KEY}}))
    argv = (binary, "--config", str(path), "--host", "127.0.0.1", "--port", str(port))
    env = {"PATH": f"{Path(binary).parent}:{os.environ['PATH']}", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    weak = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOG": "ERROR"}
    return Running(argv, port, env={**env, **weak})


@contextmanager
def stopped_after(process: Running) -> Iterator[Running]:
    try:
        yield process
    finally:
        process.stop()


# --- the router under test --------------------------------------------------------------------------------------------


def plan_of(
    engines: Sequence[int],
    port: int,
    admin: int,
    *,
    capped: bool = False,
    weights: Mapping[str, int] = WEIGHTS,
    places: Mapping[str, int] = {},
) -> Plan:
    instances = tuple(
        _instance(name, engine_port, weight, "0.19.1" if capped else "0.32.0", places.get(name, 1000))
        for (name, weight), engine_port in zip(weights.items(), engines, strict=True)
    )
    service = ServicePlan("chat", "m", "generate", 1, 1, True, (Pool("main", tuple(weights), 1.0, "main"),))
    return Plan("bench", "head", instances, (service,), RouterPlan("head", "127.0.0.1", port, admin))


def _instance(name: str, port: int, weight: int, version: str, places: int) -> Instance:
    return Instance(
        id=name,
        service="chat",
        model="m",
        task="generate",
        engine="vllm",
        image=None,
        engine_version=version,
        nodes=(name,),
        gpus={name: (0,)},
        tp=1,
        pp=1,
        pp_partition=None,
        dtype="bfloat16",
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=65536,
        max_num_seqs=1000,
        max_num_batched_tokens=8192,
        kv_cache_memory_bytes=1,
        gpu_memory_utilization=0.9,
        port=port,
        budget=Budget(1, 0, 0, 0, 0, 1, 0),
        weight=weight,
        expected=Expected(1, 1, 1, 1, (1, 1), (1, 1)),
        max_concurrency=places,
        reason="",
        weights_path="",
    )


def our_router(
    folder: Path, engines: Sequence[int], *, capped: bool = False, weights: Mapping[str, int] = WEIGHTS
) -> Running:
    """Everything on: keys, a limit, classifier, bounded hash ring, health checks, access log."""
    port, admin = free_ports(2)
    return Router(folder / f"router-{port}", plan_of(engines, port, admin, capped=capped, weights=weights)).process


class Router:
    """Our router, as `llmfleet up` writes it: `put` renames files into place, and says which."""

    def __init__(self, folder: Path, plan: Plan, *, hosts: Mapping[str, str] | None = None, hot: bool = False) -> None:
        self.folder, self.plan = folder, plan
        self.hosts = {name: "127.0.0.1" for i in plan.instances for name in i.nodes} | dict(hosts or {})
        self.keys, self.files = KEYS, dict[str, str]()
        self.put(plan)
        argv = envoy_command(str(folder), ENVOY, concurrency=1)
        restarter = (sys.executable, str(RESTARTER))
        self.process = Running(
            (*restarter, *argv) if hot else (*argv, "--disable-hot-restart"), plan.router.port, folder=folder
        )

    def put(
        self, plan: Plan, *, keys: Sequence[ClientKey] | None = None, draining: frozenset[str] = frozenset()
    ) -> list[str]:
        self.plan, self.keys = plan, tuple(keys or self.keys)
        files = router_files(plan, hosts=self.hosts, folder=str(self.folder), keys=self.keys, draining=draining)
        changed = [name for name, text in files.items() if self.files.get(name) != text]
        for name in changed:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".new").write_text(files[name])
            path.with_suffix(".new").rename(path)
        self.files = dict(files)
        return changed


# --- clients ----------------------------------------------------------------------------------------------------------
