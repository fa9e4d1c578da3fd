#!/usr/bin/env python3
"""How our processes on a node are right now: `probe.py DIR` prints one JSON object. Python 3.6, Linux.

{"processes": [as `supervise.py status` gives them], "engines": {name: {"healthy": …, and what its /metrics say}},
 "gpus": [{"index": …, "use_percent": …, "used_mib": …, "total_mib": …}]}
Engines are asked side by side, two seconds at most each. Lies beside supervise.py and uses it.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TIMEOUT_S = 2.0


def get(url: str, key: str = "") -> Optional[str]:
    """The body of a 200; None otherwise. Never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        shown = {"Authorization": "Bearer " + key} if key else {}
        with opener.open(urllib.request.Request(url, headers=shown), timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read()
            return body.decode(errors="replace") if answer.status == 200 else None
    except (OSError, ValueError):
        return None


class Metrics:
    """A page of metrics. Samples of one name are added up: vLLM has one of each per engine core."""

    def __init__(self, page: str) -> None:
        self.sums: Dict[str, float] = {}
        self.labels: Dict[str, Dict[str, str]] = {}
        for name, labels, value in SAMPLE.findall(page):
            try:
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
            except ValueError:
                continue
            self.labels[name] = dict(LABEL.findall(labels))

    def first(self, *names: str) -> Optional[float]:
        return next((self.sums[name] for name in names if name in self.sums), None)

    def label(self, name: str, label: str) -> Optional[int]:
        text = self.labels.get(name, {}).get(label, "")
        return int(float(text)) if re.match(r"^[0-9.]+$", text) else None


def rate(part: Optional[float], whole: Optional[float]) -> Optional[float]:
    return part / whole if part is not None and whole else None


def of_vllm(page: str) -> Dict[str, Any]:
    seen = Metrics(page)
    info, hits = "vllm:cache_config_info", seen.first("vllm:prefix_cache_hits_total")
    blocks, block_size = seen.label(info, "num_gpu_blocks"), seen.label(info, "block_size")
    tokens = seen.label(info, "kv_cache_size_tokens")
    if tokens is None and blocks is not None and block_size is not None:
        tokens = blocks * block_size
    return {
        "running": seen.first("vllm:num_requests_running"),
        "waiting": seen.first("vllm:num_requests_waiting"),
        "kv_usage": seen.first("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "prefix_hit_rate": rate(hits, seen.first("vllm:prefix_cache_queries_total")),
        "kv_blocks": blocks,
        "kv_block_size": block_size,
        "kv_tokens": tokens,
        "prompt_tokens": seen.first("vllm:prompt_tokens_total"),
        "generated_tokens": seen.first("vllm:generation_tokens_total"),
    }


def of_llamacpp(page: str) -> Dict[str, Any]:
    seen = Metrics(page)
    fresh, cached = seen.first("llamacpp:prompt_tokens_total"), seen.first("llamacpp:prompt_tokens_cached_total")
    read = None if fresh is None or cached is None else fresh + cached
    return {
        "running": seen.first("llamacpp:requests_processing"),
        "waiting": seen.first("llamacpp:requests_deferred"),
        "kv_usage": seen.first("llamacpp:kv_cache_usage_ratio"),
        "prefix_hit_rate": rate(cached, read),
        "prompt_tokens": read if read is not None else fresh,
        "generated_tokens": seen.first("llamacpp:tokens_predicted_total"),
    }


def engine(health_url: str, key: str) -> Dict[str, Any]:
    page = get(health_url.rsplit("/", 1)[0] + "/metrics", key) or ""
    found: Dict[str, Any] = {"healthy": get(health_url) is not None}
    if "vllm:" in page:
        found.update(of_vllm(page))
    elif "llamacpp:" in page:
        found.update(of_llamacpp(page))
    return found


def number(text: str) -> Optional[int]:
    return int(text) if re.match(r"^ *[0-9]+ *$", text) else None  # "[N/A]" where the card does not count it


def gpus() -> List[Dict[str, Any]]:
    """How loaded NVIDIA's GPUs are; none where nvidia-smi is not there or takes too long."""
    argv = ["nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.check_output(argv, stderr=subprocess.DEVNULL, timeout=5).decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[number(word) for word in line.split(",")] for line in said.splitlines()]
    keys = ("index", "use_percent", "used_mib", "total_mib")
    return [dict(zip(keys, row)) for row in rows if len(row) == len(keys) and row[0] is not None]  # noqa: B905


def first_line(paths: List[str]) -> str:
    """Of the file with the key that an engine wants, where it wants one."""
    try:
        with open(paths[0]) as file:
            return file.readline().strip()
    except (OSError, IndexError):
        return ""


def probe(folder: str) -> Dict[str, Any]:
    supervise: Any = importlib.import_module("supervise")
    rundir = os.path.join(folder, "run")
    names: List[str] = sorted(os.listdir(rundir)) if os.path.isdir(rundir) else []
    statuses = [supervise.read_status(os.path.join(rundir, name)) for name in names]
    urls = {}
    for status in statuses:
        spec = supervise.read_json(rundir, status["name"], "spec.json")
        if spec.get("kind") == "engine" and spec.get("health_url") and status["state"] in supervise.LIVE_STATES:
            urls[status["name"]] = spec["health_url"], first_line(list(spec.get("env_files", {}).values()))
    with ThreadPoolExecutor(max(2, min(16, len(urls) + 1))) as pool:
        cards = pool.submit(gpus)
        engines = dict(pool.map(lambda name: (name, engine(*urls[name])), urls))
        return {"processes": statuses, "engines": engines, "gpus": cards.result()}


if __name__ == "__main__":
    print(json.dumps(probe(os.path.realpath(sys.argv[1]))))
