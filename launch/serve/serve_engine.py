"""Engines that Serve LLM cannot run, for serve_front.py."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Dict, List, Optional

import aiohttp
from serve_pieces import Json, Pieces, head_of, placed

START_S = 1800.0  # of an engine


class Engine:
    """An engine that Serve LLM cannot run, as a child process: an older vLLM, llama.cpp."""

    def __init__(self, argv: List[str], env: Dict[str, str]) -> None:
        """`argv`: with {port} where its port goes, and {home} where the node's folder does."""
        port = _free_port()
        self.url = "http://127.0.0.1:%d" % port
        words = [placed(word.replace("{port}", str(port))) for word in argv]
        given = {name: placed(value) for name, value in env.items()}
        self.child = subprocess.Popen(words, env={**os.environ, **given}, preexec_fn=_die_with_parent)
        self.session: Optional[aiohttp.ClientSession] = None
        until = time.monotonic() + START_S
        while not self.answers():
            if self.child.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError("the engine did not start: %s" % " ".join(words))
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    async def check_health(self) -> None:
        if self.child.poll() is not None or not await asyncio.to_thread(self.answers):
            raise RuntimeError("the engine is gone")

    async def ask(self, path: str, body: Json) -> Pieces:
        self.session = self.session or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        async with self.session.post(self.url + path, json=body) as response:
            yield head_of(response.status, response.content_type)
            async for piece in response.content.iter_any():
                yield piece.decode(errors="replace")

    def stop(self) -> None:
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()

    def __del__(self) -> None:
        if getattr(self, "child", None) is not None:
            self.stop()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
