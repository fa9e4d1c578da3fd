"""fetch.py as nodes run it: a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEngine
from running import free_port

from llmfleet.launch.remote import fetch

pytestmark = pytest.mark.live

SCRIPT = str(Path(fetch.__file__))


def run(*urls: str) -> list[dict[str, object]]:
    environment = {"http_proxy": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, *urls], capture_output=True, timeout=30, check=True, env=environment
    )
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_answers_errors_and_silence_in_order() -> None:
    engine = FakeEngine("one")
    try:
        base = f"http://127.0.0.1:{engine.port}"
        dead = f"http://127.0.0.1:{free_port()}/x"
        good, bad, silent, nonsense = run(f"{base}/health", f"{base}/missing", dead, "no-url")
    finally:
        engine.stop()
    assert good == {"url": f"{base}/health", "status": 200, "body": '{"status": "ok"}'}
    assert (bad["status"], bad["body"]) == (404, '{"error": "missing"}')
    assert (silent["url"], silent["status"]) == (dead, 0)
    assert "refused" in str(silent["body"])
    assert (nonsense["status"], "unknown url type" in str(nonsense["body"])) == (0, True)


def test_nothing_asked() -> None:
    assert run() == []
