"""An engine as the child of a replica. Its double is a small server; the process between the two is the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised_node import free_port, gone, until

from llmfleet.launch.serve import serve_child
from llmfleet.launch.serve.serve_child import Child

pytestmark = pytest.mark.live

# Answers at its port, beside a child of its own; {SIGTERM} is what it does when it is told to end.
DOUBLE = """
import http.server, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: {sigterm})
helper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
print("pids", os.getpid(), helper.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
ENDS, STAYS = "sys.exit(0)", "None"


@pytest.fixture
def started() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.kill()
        child.process.wait()
        child.process.stdin.close()
        child.reader.join()


def double(started: list[Child], sigterm: str, grace_s: float) -> tuple[Child, list[int]]:
    """The child, and the process ids of engine and helper."""
    port = free_port()
    argv = [sys.executable, "-c", textwrap.dedent(DOUBLE.format(sigterm=sigterm)), str(port)]
    child = Child(argv, dict(os.environ), port, grace_s)
    started.append(child)
    until(child.answers)
    words = next(line for line in child.said if line.startswith("pids")).split()
    return child, [int(word) for word in words[1:]]


def all_gone(pids: list[int]) -> bool:
    return all(gone(pid) for pid in pids)


@pytest.mark.parametrize(("sigterm", "grace_s"), [(ENDS, 60.0), (STAYS, 0.1)])
def test_it_ends_with_all_that_it_started(started: list[Child], sigterm: str, grace_s: float) -> None:
    child, pids = double(started, sigterm, grace_s)
    told: list[None] = []
    child.on_end = lambda: told.append(None)
    child.stop()
    assert child.process.returncode == (0 if sigterm == ENDS else 128 + signal.SIGKILL)
    until(lambda: all_gone(pids))
    child.reader.join()
    assert not told, "it was asked to end"


def test_what_hangs_is_killed(started: list[Child]) -> None:
    child, pids = double(started, STAYS, 60.0)
    os.kill(pids[0], signal.SIGSTOP)
    assert not child.answers() and child.end() is None
    child.kill()
    until(lambda: all_gone(pids))


def test_whoever_kills_the_process_between_kills_the_engine(started: list[Child]) -> None:
    child, pids = double(started, STAYS, 60.0)
    child.process.kill()
    until(lambda: gone(pids[0]))
    os.kill(pids[1], signal.SIGKILL)  # what an engine started is out of reach then


def test_a_replica_that_is_killed_takes_the_engine_along(started: list[Child]) -> None:
    replica = f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(serve_child.__file__).parent)!r})
        from serve_child import Child
        Child([sys.executable, "-c", {DOUBLE.format(sigterm=STAYS)!r}, sys.argv[1]], dict(os.environ), 0, 0.1)
        time.sleep(600)
    """
    argv = [sys.executable, "-c", textwrap.dedent(replica), str(free_port())]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        pids = [int(word) for word in process.stderr.readline().split()[1:]]
        assert len(pids) == 2 and not all_gone(pids)
        process.kill()
    until(lambda: all_gone(pids))


def test_an_engine_that_ends_unasked_says_why(started: list[Child]) -> None:
    words = [sys.executable, "-c", "import sys; print('ValueError: no such model'); print('bye'); sys.exit(3)"]
    child = Child(words, dict(os.environ), free_port(), 60.0)
    started.append(child)
    child.reader.join()
    assert child.end() == "exit code 3: ValueError: no such model"


def test_the_replica_is_told_of_an_end_that_it_did_not_ask_for(started: list[Child]) -> None:
    child, pids = double(started, ENDS, 60.0)
    told: list[str | None] = []
    child.on_end = lambda: told.append(child.end())
    os.kill(pids[0], signal.SIGKILL)
    child.reader.join()
    assert told and (told[0] or "").startswith("exit code 137: ")
    assert all_gone(pids)


def test_what_cannot_be_started_says_so(started: list[Child]) -> None:
    child = Child(["/nowhere/engine"], dict(os.environ), free_port(), 60.0)
    started.append(child)
    child.reader.join()
    assert "cannot start /nowhere/engine: " in (child.end() or "")
