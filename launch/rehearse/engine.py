"""A simulated engine as a process: vLLM's HTTP API and metrics, nothing computed, the time that a real one would take.

    python -m llmfleet.launch.rehearse.engine SPEC.json

SPEC.json: {"id", "host", "port", "names", "task", "speed", "engine": fields of EngineSpec}. With `speed` 10 a second of
the model's takes a tenth. SIGTERM: what runs is finished, new requests get 503, then it ends. POST /simulated/slow
{"factor": 3}: steps take three times as long.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from llmfleet.launch.rehearse.api import Prompt, chunk, completion, embedding, read_prompt, scores, usage_chunk
from llmfleet.launch.rehearse.http import Connection, Exchange
from llmfleet.launch.rehearse.metrics import Figures, page
from llmfleet.planner.simulate.live import EngineSpec, LiveEngine, Token

GENERATE = {"/v1/completions", "/v1/chat/completions"}
EMBED = {"/v1/embeddings"}
RERANK = {"/v1/rerank", "/rerank", "/v2/rerank", "/v1/score", "/score"}


class Server:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.speed = float(spec.get("speed", 1.0))
        self.engine = LiveEngine(EngineSpec(**{**spec["engine"], "grid": tuple(spec["engine"]["grid"])}))
        self.figures = Figures()
        self._streams: dict[int, asyncio.Queue[Token]] = {}
        self._wake = asyncio.Event()
        self.draining = asyncio.Event()

    def now(self) -> float:
        return monotonic() * self.speed

    async def work(self) -> None:
        """Ends each step when its time has come, and hands out what it made."""
        while True:
            wait = (self.engine.ends - self.now()) / self.speed
            if wait > 0:
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), min(wait, 3600.0))
                continue
            for token in self.engine.step():
                stream = self._streams.get(token.request)
                if stream is not None:
                    stream.put_nowait(token)
            await asyncio.sleep(0)

    async def handle(self, exchange: Exchange) -> None:
        path, method = exchange.asked.path.partition("?")[0], exchange.asked.method
        if method == "GET":
            self._get(exchange, path)
        elif path in GENERATE | EMBED | RERANK:
            await self._ask(exchange, path)
        elif path == "/simulated/slow":
            self.engine.slow_down(float(json.loads(exchange.asked.body)["factor"]))
            exchange.answer(200, {})
        else:
            exchange.refuse(404, "Not Found", "NotFoundError")

    def _get(self, exchange: Exchange, path: str) -> None:
        if path in ("/health", "/ping"):
            exchange.answer(200, b"")
        elif path == "/metrics":
            text = page(self.spec, self.engine, self.figures)
            exchange.answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/version":
            exchange.answer(200, {"version": "simulated"})
        elif path == "/v1/models":
            cards = [{"id": name, "object": "model", "owned_by": "llmfleet-simulated",
                      "max_model_len": self.engine.spec.longest} for name in self.spec["names"]]  # fmt: skip
            exchange.answer(200, {"object": "list", "data": cards})
        else:
            exchange.refuse(404, "Not Found", "NotFoundError")

    async def _ask(self, exchange: Exchange, path: str) -> None:
        if self.draining.is_set() or self.engine.full:
            self.figures.refused += 1
            exchange.refuse(503, "the simulated engine takes no more requests", "ServiceUnavailableError")
            return
        try:
            prompt = read_prompt(exchange.asked.body, path, self.engine.spec.block)
        except ValueError as error:
            exchange.refuse(400, str(error))
            return
        if prompt.model not in self.spec["names"]:
            exchange.refuse(404, f"The model `{prompt.model}` does not exist.", "NotFoundError")
            return
        room = self.engine.spec.longest - prompt.tokens
        if room < 1 and self.spec["task"] == "generate":
            longest = self.engine.spec.longest
            exchange.refuse(400, f"This model's maximum context length is {longest} tokens, not {prompt.tokens}.")
            return
        await self._run(exchange, path, prompt, max(1, min(prompt.answer, room)) if path in GENERATE else 1)

    async def _run(self, exchange: Exchange, path: str, prompt: Prompt, answer: int) -> None:
        started = monotonic()
        r = self.engine.submit(prompt.hashes, prompt.tokens, answer, self.now())
        stream: asyncio.Queue[Token] = asyncio.Queue()
        self._streams[r] = stream
        self._wake.set()
        try:
            first, last, n = 0.0, 0.0, 0
            while True:
                token = await stream.get()
                last = monotonic()
                first = first or last
                n = token.n
                if exchange.gone:
                    self.engine.abort(r)
                    return
                if prompt.stream and path in GENERATE:
                    exchange.event(chunk(prompt, path, n, done=token.done))
                if token.done:
                    break
            cached = self.engine.cached(r)
            self.figures.done(first - started, last - first, n, prompt.tokens, last - started)
            self._end(exchange, path, prompt, n, cached)
        finally:
            del self._streams[r]

    def _end(self, exchange: Exchange, path: str, prompt: Prompt, made: int, cached: int) -> None:
        if path in EMBED:
            exchange.answer(200, embedding(prompt))
        elif path in RERANK:
            exchange.answer(200, scores(prompt))
        elif prompt.stream:
            if prompt.usage:
                exchange.event(usage_chunk(prompt, path, made, cached))
            exchange.event("[DONE]")
            exchange.end()
        else:
            exchange.answer(200, completion(prompt, path, made, cached))


async def serve(spec: dict[str, Any]) -> None:
    server = Server(spec)
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.draining.set)
    listening = await loop.create_server(
        lambda: Connection(server.handle, tasks), spec["host"], spec["port"], backlog=4096
    )
    work = asyncio.ensure_future(server.work())
    await server.draining.wait()
    while tasks:
        await asyncio.wait(set(tasks))
    await asyncio.sleep(0.05)  # the last bytes leave
    work.cancel()
    listening.close()


def main() -> None:
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
