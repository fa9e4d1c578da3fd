"""HTTP/1.1 for the simulated engine: requests in, answers and event streams out. The standard library, little of it.

Only what routers and load generators need: keep-alive, Content-Length and chunked bodies, no pipelining.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
MOST_BODY = 64 << 20
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    body: bytes


class Exchange:
    """One request and what is sent in answer. `gone` once the client has hung up."""

    def __init__(self, asked: Asked, transport: asyncio.Transport) -> None:
        self.asked = asked
        self._transport = transport
        self.streaming = False

    @property
    def gone(self) -> bool:
        return self._transport.is_closing()

    def answer(self, status: int, body: bytes | dict[str, Any], kind: str = "application/json") -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = (
            f"HTTP/1.1 {status} {REASONS.get(status, '')}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(text)}",
        )
        head = "\r\n".join(lines) + "\r\n\r\n"
        self._transport.write(head.encode() + text)

    def refuse(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        """As vLLM words its errors."""
        self.answer(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def event(self, data: str) -> None:
        """The first event also sends the headers: a request that waits can still be tried elsewhere."""
        text = f"data: {data}\n\n".encode()
        chunk = b"%x\r\n%b\r\n" % (len(text), text)
        if not self.streaming:
            self.streaming = True
            chunk = STREAM_HEAD + chunk
        self._transport.write(chunk)

    def end(self) -> None:
        self._transport.write(b"0\r\n\r\n")


Handler = Callable[[Exchange], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client's connection: requests one after another."""

    def __init__(self, handler: Handler, tasks: set[asyncio.Task[None]]) -> None:
        self._handler = handler
        self._tasks = tasks
        self._data = bytearray()
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._next()

    def _next(self) -> None:
        if self._busy:
            return
        try:
            found = request_in(self._data)
        except ValueError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return
        if found is None:
            return
        asked, used = found
        del self._data[:used]
        self._busy = True
        task = asyncio.ensure_future(self._answer(Exchange(asked, self._transport)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        await self._handler(exchange)
        self._busy = False
        if not exchange.gone:
            self._next()


def request_in(data: bytearray) -> tuple[Asked, int] | None:
    """The first request and its length in bytes; None until all of it is there. Raises ValueError for what is none."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > 1 << 16:
            raise ValueError("headers too long")
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    start = end + 4
    if headers.get("transfer-encoding", "").lower() == "chunked":
        whole = _unchunked(data, start)
        return (Asked(method, path, whole[0]), whole[1]) if whole else None
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MOST_BODY:
        raise ValueError("body too long")
    if len(data) < start + length:
        return None
    return Asked(method, path, bytes(data[start : start + length])), start + length


def _unchunked(data: bytearray, at: int) -> tuple[bytes, int] | None:
    parts = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(bytes(data[at:end]).split(b";")[0], 16)
        at = end + 2
        if len(data) < at + size + 2:
            return None
        parts.append(bytes(data[at : at + size]))
        at += size + 2
        if size == 0:
            return b"".join(parts), at
