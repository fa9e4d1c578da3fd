"""Ranks hold on to each other: one that is gone ends the others. vLLM itself is a double that sleeps."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.live
SCRIPT = Path(__file__).parents[3] / "launch" / "remote" / "vllm_rank.py"
SERVE = """
class FlexibleArgumentParser:
    def add_subparsers(self): return None
    def parse_args(self, words): return words
class ServeSubcommand:
    def subparser_init(self, parsers): pass
    @staticmethod
    def cmd(words):
        import time
        print("headless", *words, flush=True)
        time.sleep(60)
"""
Start = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    for name, body in {
        "vllm/entrypoints/openai/api_server.py": "import time; print('serving', flush=True); time.sleep(60)",
        "vllm/entrypoints/cli/serve.py": SERVE,
    }.items():
        for folder in reversed(Path(name).parents[:-1]):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "__init__.py").touch()
        (tmp_path / name).write_text(body)
    started: list[subprocess.Popen[str]] = []

    def begin(rank: int) -> subprocess.Popen[str]:
        words = [f"127.0.0.1:{port}", "127.0.0.1,127.0.0.1", "--nnodes", "3", "--node-rank", str(rank)]
        argv = [sys.executable, str(SCRIPT), *words]
        started.append(
            subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(tmp_path)})
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], *words: str) -> str:
    """The line with which it has said all of them, in whatever order."""
    assert process.stdout
    missing = {*words}
    for line in process.stdout:
        missing -= {word for word in missing if word in line}
        if not missing:
            return line
    raise AssertionError(f"it never said {missing}")


def test_a_rank_that_dies_takes_the_first_along_and_that_the_others(start: Start) -> None:
    one, first, two = start(1), start(0), start(2)  # in any order
    until(first, "serving", "rank 1 is there")
    for rank in (one, two):
        assert "serve --headless --nnodes 3" in until(rank, "headless")
    one.kill()
    assert "rank 1 on 127.0.0.1 is gone" in until(first, "error")
    assert first.wait(10) == 1
    assert "first node is gone" in until(two, "error")
    assert two.wait(10) == 1


def test_the_first_that_dies_takes_the_ranks_along(start: Start) -> None:
    first, one = start(0), start(1)
    until(one, "headless")
    first.kill()
    assert one.wait(10) == 1


def test_a_stranger_at_the_door_means_nothing(start: Start, port: int) -> None:
    first, one = start(0), start(1)
    until(one, "headless")
    for said in (b"", b"rank 7\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(said)
    assert first.poll() is None
    one.kill()
    assert first.wait(10) == 1
