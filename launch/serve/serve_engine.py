"""Engines that Serve LLM cannot run, for serve_front.py."""

import asyncio
import codecs
import os
import socket
import sys
import time
from typing import Dict, List, Optional

import aiohttp
from serve_child import Child
from serve_pieces import Json, Pieces, error_text, head_of, leave, placed

LOOK_S = 0.5
ENDING_S = 2.0


class Engine:
    """An engine that Serve LLM cannot run, as a child process: an older vLLM, llama.cpp."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it, and can stop a replica meanwhile
        self, argv: List[str], env: Dict[str, str], start_within_s: float, hang_after_s: float, stop_grace_s: float
    ) -> None:
        """`argv`: with {port} where its port goes, and {home} where the node's folder does."""
        port = _free_port()
        words = [placed(word.replace("{port}", str(port))) for word in argv]
        given = {name: placed(value) for name, value in env.items()}
        self.url = "http://127.0.0.1:%d" % port
        self.hang_after_s = hang_after_s
        self.session: Optional[aiohttp.ClientSession] = None
        self.child = Child(words, {**os.environ, **given}, port, stop_grace_s)
        self.heard = time.monotonic()
        await self._started(words, start_within_s)

    async def _started(self, words: List[str], within_s: float) -> None:
        where = "the engine did not start on %s" % socket.gethostname()
        while not await asyncio.to_thread(self.child.answers):
            if (end := self.child.end()) is not None:
                raise RuntimeError("%s: %s (%s)" % (where, end, " ".join(words)))
            if time.monotonic() - self.heard > within_s:
                self.child.kill()
                raise RuntimeError("%s: no good answer within %g s (%s)" % (where, within_s, " ".join(words)))
            await asyncio.sleep(LOOK_S)
        self.heard = time.monotonic()
        self.child.on_end = self._leave
        if self.child.end() is not None:
            self._leave()

    def _leave(self) -> None:
        leave("the engine ended with %s" % self.child.end())

    async def check_health(self) -> None:
        """An engine that hangs would not end its requests either, and Serve would wait for them."""
        if await asyncio.to_thread(self.child.answers):
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > self.hang_after_s:
            sys.stderr.write("the engine hung: no good answer for %g s\n" % self.hang_after_s)
            await asyncio.to_thread(self.child.kill)

    async def ask(self, path: str, body: Json) -> Pieces:
        self.session = self.session or _session()
        text = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character
        begun = False
        try:
            async with self.session.post(self.url + path, json=body) as response:
                begun = True
                yield head_of(response.status, response.content_type)
                async for piece in response.content.iter_any():
                    yield text.decode(piece)
        except aiohttp.ClientError as error:
            await asyncio.sleep(ENDING_S)  # where the engine is gone, so are we
            if begun:
                raise
            yield head_of(502)
            yield error_text(502, "the engine did not answer: %s" % error)

    def __del__(self) -> None:
        if (child := getattr(self, "child", None)) is not None:
            child.stop()


def _session() -> aiohttp.ClientSession:
    """As many requests as Serve lets in, each on a connection of its own: one that is kept may be closed by the engine
    just when it is used again."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
