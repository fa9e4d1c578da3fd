#!/usr/bin/env python3
"""Waits until a node that boots can start a process: `ready.py DIR NAME`, before its supervisor. Python 3.6, Linux.

That is, until there are the address that DIR/run/NAME/spec.json has it listen on, and its container runtime. A unit of
a user's cannot be put behind the network, nor behind docker's daemon. Lies beside supervise.py and uses it.
"""

import importlib
import os
import socket
import subprocess
import sys
import time
from typing import Any, Dict
from urllib.parse import urlsplit

PATIENCE_S = 120.0


def wait(spec: Dict[str, Any], deadline: float) -> None:
    while not ready(spec) and time.monotonic() < deadline:
        time.sleep(1.0)


def ready(spec: Dict[str, Any]) -> bool:
    host = urlsplit(spec.get("health_url") or "").hostname
    return (not host or has_address(host)) and (not spec.get("cleanup") or runs_containers(spec))


def has_address(host: str) -> bool:
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def runs_containers(spec: Dict[str, Any]) -> bool:
    null, environment = subprocess.DEVNULL, dict(os.environ, **spec.get("env", {}))
    try:
        asked = [spec["cleanup"][0], "ps"]
        return subprocess.call(asked, env=environment, stdin=null, stdout=null, stderr=null, timeout=20) == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    supervise: Any = importlib.import_module("supervise")
    wait(supervise.read_json(sys.argv[1], "run", sys.argv[2], "spec.json"), time.monotonic() + PATIENCE_S)
