"""One connection of a load generator: sends a request, notes when each part of its answer came, keeps the connection.

Written on asyncio's protocols, since what a client costs bounds what it can measure: about 0.1 ms a request.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

OK = 200


@dataclass(slots=True)
class Sample:
    """One request as its client saw it. Times are of time.perf_counter(); `due`: when it should have been sent."""

    due: float
    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)  # between parts of the answer, seconds
    parts: int = 0
    prompt: int = 0
    answer: int = 0
    cached: int | None = None
    status: int = 0
    error: str = ""
    instance: str = ""
    degraded: bool = False

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def ttft_s(self) -> float:
        return self.first - self.sent

    @property
    def e2e_s(self) -> float:
        return self.last - self.sent

    @property
    def tpot_s(self) -> float | None:
        return (self.last - self.first) / (self.answer - 1) if self.answer > 1 else None


class Connection(asyncio.Protocol):
    """`ask` once after the other; `usable` until the server closes or breaks off."""

    def __init__(self) -> None:
        self.usable = True
        self._sample: Sample | None = None
        self._done: asyncio.Future[None] | None = None
        self._data = b""
        self._events = b""
        self._head = False
        self._chunked = False
        self._stream = False
        self._left = 0
        self._before = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    async def ask(self, request: bytes, sample: Sample) -> None:
        self._sample, self._data, self._events, self._head = sample, b"", b"", False
        self._done = asyncio.get_running_loop().create_future()
        sample.sent = perf_counter()
        self._transport.write(request)
        try:
            await self._done
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._sample is not None:
            closed = self._head and not self._chunked and self._left < 0
            self._finish("" if closed else f"connection broken: {error or 'closed by the server'}")

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        sample = self._sample
        if sample is None:
            self.close()  # nobody asked
            return
        sample.last = now
        self._data = self._data + data if self._data else data
        if not self._head and not self._read_head(sample):
            return
        try:
            ended = self._read_chunks(sample, now) if self._chunked else self._read_body(sample, now)
        except ValueError:
            self.usable = False
            self._finish("the answer is not HTTP")
            return
        if ended:
            self._finish(sample.error)

    def _read_head(self, sample: Sample) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._data = self._data[:end].lower(), self._data[end + 4 :]
        sample.status = int(head[9:12])
        self._head = True
        self._chunked = b"transfer-encoding: chunked" in head
        self._stream = sample.status == OK and b"text/event-stream" in head
        place = head.find(b"content-length:")
        self._left = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else -1
        if b"\r\nconnection: close" in head:
            self.usable = False
        if b"x-llmfleet-" in head:
            self._told(sample, head.decode("latin-1"))
        return True

    def _told(self, sample: Sample, head: str) -> None:
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        sample.instance = headers.get("x-llmfleet-instance", "")
        sample.degraded = "x-llmfleet-degraded" in headers

    def _read_chunks(self, sample: Sample, now: float) -> bool:
        data, at = self._data, 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            size = int(data[at:end].split(b";", 1)[0], 16)
            start = end + 2
            if len(data) < start + size + 2:
                break
            if size == 0:
                self._data = b""
                self._whole(sample, now)
                return True
            self._part(sample, data[start : start + size], now)
            at = start + size + 2
        self._data = data[at:]
        return False

    def _read_body(self, sample: Sample, now: float) -> bool:
        """Of known length, or up to the end of the connection."""
        if self._stream:
            self._left -= len(self._data) if self._left >= 0 else 0
            self._part(sample, self._data, now)
            self._data = b""
            return self._left == 0
        if self._left < 0 or len(self._data) < self._left:
            return False
        self._part(sample, self._data, now)
        self._whole(sample, now)
        return True

    def _part(self, sample: Sample, text: bytes, now: float) -> None:
        self._events = self._events + text if self._events else text
        if not self._stream:
            return
        *whole, self._events = self._events.split(b"\n\n")
        for event in whole:
            if event.startswith(b"data:") and not event.startswith(b"data: [DONE]"):
                self._event(sample, event[5:], now)

    def _event(self, sample: Sample, data: bytes, now: float) -> None:
        """Counts parts that carry text. The last one has the tokens; a role alone is no token."""
        if b'"usage":{' in data or b'"usage": {' in data or b'"error"' in data:
            body = json.loads(data)
            if "error" in body:
                sample.error = str(body["error"].get("message", body["error"]))[:200]
                return
            read_usage(sample, body.get("usage") or {})
            if not body.get("choices"):
                return
        if b'"role"' in data and (b'"content":""' in data or b'"content": ""' in data):
            return
        if sample.parts == 0:
            sample.first = now
        else:
            sample.gaps.append(now - self._before)
        self._before = now
        sample.parts += 1

    def _whole(self, sample: Sample, now: float) -> None:
        """The end of an answer that is no stream."""
        if self._stream:
            return
        sample.first = now
        try:
            body = json.loads(self._events or b"{}")
        except ValueError:
            body = {}
        if sample.status != OK:
            error = body.get("error", {}) if isinstance(body, dict) else {}
            said = error.get("message", "") if isinstance(error, dict) else str(error)
            sample.error = f"HTTP {sample.status} {said}".strip()[:200]
        elif isinstance(body, dict):
            read_usage(sample, body.get("usage") or {})

    def _finish(self, error: str) -> None:
        sample, done, self._sample = self._sample, self._done, None
        if sample is not None and done is not None and not done.done():
            if not error and self._stream and not sample.parts:
                error = "the stream ended without a token"
            sample.error = error
            sample.answer = sample.answer or sample.parts
            done.set_result(None)


def read_usage(sample: Sample, usage: dict[str, Any]) -> None:
    sample.prompt = int(usage.get("prompt_tokens") or 0)
    sample.answer = int(usage.get("completion_tokens") or 0)
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") is not None:
        sample.cached = int(details["cached_tokens"])
