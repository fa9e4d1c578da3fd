"""The requests of a simulated stream as HTTP requests: the same lengths, shared beginnings as equal text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from llmfleet.launch.bench.client import Client
from llmfleet.launch.bench.prompts import PATHS, WORDS
from llmfleet.launch.rehearse.api import BYTES_A_TOKEN
from llmfleet.planner.plan import Task
from llmfleet.planner.simulate.requests import Stream

FILLER = 1 << 18


@lru_cache(maxsize=1)
def filler() -> str:
    words = random.Random(1).choices(WORDS, k=FILLER // 4)  # noqa: S311
    return " ".join(words)[:FILLER]


class Timetable:
    """All requests of all services in the order of their arrival, made when they are due.

    `arrivals` in seconds of the trace; `services[i]` is whose the i-th is.
    """

    def __init__(self, streams: Sequence[Stream], tasks: dict[str, Task]) -> None:
        order = np.argsort(np.concatenate([s.arrival for s in streams]), kind="stable")
        owners = np.concatenate([np.full(len(s.arrival), i) for i, s in enumerate(streams)])[order]
        places = np.concatenate([np.arange(len(s.arrival)) for s in streams])[order]
        self._streams, self._tasks = streams, tasks
        self._rows = list(zip(owners.tolist(), places.tolist(), strict=True))
        self.arrivals: list[float] = np.concatenate([s.arrival for s in streams])[order].tolist()
        self.services = [streams[i].service for i, _ in self._rows]
        self.prompts = [int(streams[i].prompt[at]) for i, at in self._rows]
        self.answers = [int(streams[i].answer[at]) for i, at in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def requests(self, client: Client) -> Iterator[bytes]:
        for number, (owner, at) in enumerate(self._rows):
            stream = self._streams[owner]
            task = self._tasks[stream.service]
            text = _text(stream, at, number)
            answer = int(stream.answer[at])
            yield client.request(PATHS[task], _body(task, stream.service, text, answer))


def _text(stream: Stream, at: int, number: int) -> str:
    """What several share first; then the request's own number, so that nothing behind it is equal."""
    numbers = stream.segments[stream.first[at] : stream.first[at + 1]].tolist()
    begun = "".join(_segment(stream.service, n, int(stream.tokens[n])) for n in numbers)
    left = int(stream.prompt[at]) * BYTES_A_TOKEN - len(begun)
    return begun + _cut(f"{number:010d} ", left, number)


@lru_cache(maxsize=4096)
def _segment(service: str, number: int, tokens: int) -> str:
    return _cut(f"{service} {number:08d} ", tokens * BYTES_A_TOKEN, number)


def _cut(mark: str, size: int, number: int) -> str:
    text = filler()
    start = number * 37 % (FILLER // 2)
    whole = mark + text[start : start + size]
    while len(whole) < size:
        whole += text
    return whole[:size]


def _body(task: Task, model: str, text: str, answer: int) -> bytes:
    """The text has nothing that JSON would escape."""
    if task == "embed":
        return f'{{"model":"{model}","input":"{text}"}}'.encode()
    if task == "rerank":
        return f'{{"model":"{model}","query":"","documents":["{text}"]}}'.encode()
    options = '"stream":true,"stream_options":{"include_usage":true},"ignore_eos":true'
    return f'{{"model":"{model}",{options},"max_tokens":{answer},"prompt":"{text}"}}'.encode()
