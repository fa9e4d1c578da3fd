"""Clients that keep asking while something is done to the fleet, half of them streaming, and a log of every request."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

INSTANCE_HEADER = "x-llmfleet-instance"


@dataclass(frozen=True, slots=True)
class Request:
    """One finished request. Times are time.monotonic() seconds."""

    started: float
    ended: float
    streaming: bool
    status: int | None  # None: no answer came
    instance: str  # who answered, by the router's header; empty if it did not say
    error: str  # empty if all went well
    cut: bool  # a stream that began and did not end as it should

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass
class Load:
    """Use as a context manager: clients run from its start to `stop()`, at most `seconds` and `limit` requests in all.

    `url` is the router's, without a path.
    """

    url: str
    model: str
    clients: int = 8
    max_tokens: int = 48
    limit: int = 5000
    seconds: float = 300.0
    timeout: float = 60.0  # of one request
    pause: float = 0.0  # of a client after each answer: what starts meanwhile has cores to start on
    deadline: float = field(default=0.0, init=False)
    requests: list[Request] = field(default_factory=list, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _numbers: Iterable[int] = field(default_factory=itertools.count, repr=False)

    def __enter__(self) -> Load:
        self.deadline = time.monotonic() + self.seconds
        for number in range(self.clients):
            client = threading.Thread(target=self._ask_on, args=(number % 2 == 1,), daemon=True)
            self._threads.append(client)
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Request]:
        """Lets running requests end and returns the log, in the order in which they ended."""
        self._stop.set()
        for client in self._threads:
            client.join(self.timeout + 30)
        return self.requests

    def wait_for(self, count: int, *, seconds: float = 60.0) -> None:
        """Returns when so many more requests have ended well; TimeoutError if they do not in time."""
        goal, deadline = len(self.good) + count, time.monotonic() + seconds
        while len(self.good) < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {goal} good requests after {seconds:g} s: {self.summary()}")
            time.sleep(0.05)

    @property
    def good(self) -> list[Request]:
        return [r for r in list(self.requests) if r.ok]

    @property
    def failed(self) -> list[Request]:
        """Requests without a good answer; of streams, those that failed before their first byte."""
        return [r for r in list(self.requests) if not r.ok and not r.cut]

    @property
    def cut(self) -> list[Request]:
        return [r for r in list(self.requests) if r.cut]

    def answered_by(self, instance: str, *, after: float = 0.0) -> list[Request]:
        """Requests that began after a moment and that this instance answered."""
        return [r for r in list(self.requests) if r.instance == instance and r.started > after]

    def summary(self) -> str:
        """For the message of a failed assertion."""
        reasons = sorted({r.error for r in self.requests if r.error})
        return f"{len(self.good)} good, {len(self.failed)} failed, {len(self.cut)} cut: {reasons[:5]}"

    def _ask_on(self, streaming: bool) -> None:
        with httpx.Client(timeout=self.timeout, trust_env=False) as client:
            while not self._stop.is_set() and time.monotonic() < self.deadline and len(self.requests) < self.limit:
                request = self._ask(client, streaming)
                self.requests.append(request)
                if not request.ok:
                    self._stop.wait(0.05)  # a server that refuses at once is not to be asked in a spin
                self._stop.wait(self.pause)

    def _ask(self, client: httpx.Client, streaming: bool) -> Request:
        answer = _Answer()
        started = time.monotonic()
        try:
            with client.stream("POST", f"{self.url}/v1/chat/completions", json=self._body(streaming)) as response:
                answer.take(response, streaming)
        except httpx.HTTPError as error:
            answer.error = f"{type(error).__name__}: {error}"
        cut = streaming and answer.status == 200 and bool(answer.error)
        return Request(started, time.monotonic(), streaming, answer.status, answer.instance, answer.error, cut)

    def _body(self, streaming: bool) -> dict[str, Any]:
        number = next(iter(self._numbers))
        question = f"Question {number}: what does the licence say about redistribution?"
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.max_tokens,
            "stream": streaming,
        }


@dataclass
class _Answer:
    status: int | None = None
    instance: str = ""
    error: str = ""

    def take(self, response: httpx.Response, streaming: bool) -> None:
        self.status = response.status_code
        self.instance = response.headers.get(INSTANCE_HEADER, "")
        if self.status != 200:
            self.error = f"HTTP {self.status}: {response.read()[:200]!r}"
        elif streaming:
            self.error = _stream_error(response.iter_lines())
        elif not json.loads(response.read())["choices"][0]["finish_reason"]:
            self.error = "an answer without its end"


def _stream_error(lines: Iterable[str]) -> str:
    """Reads a stream of events to its end; what is wrong with it, or nothing."""
    finished = False
    for line in lines:
        if line == "data: [DONE]":
            return "" if finished else "a stream that ended without a finish reason"
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return f"an error inside the stream: {event['error']}"
            finished = finished or any(choice.get("finish_reason") for choice in event["choices"])
    return "a stream without its end"
