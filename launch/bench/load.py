"""Who asks when: users that wait for each answer, or arrivals that wait for nobody."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

from llmfleet.launch.bench.client import Client
from llmfleet.launch.bench.stream import Sample

Ask = Callable[[], bytes]
Heard = Callable[[Sample], None]


@dataclass(frozen=True, slots=True)
class Run:
    """Samples in the order in which requests ended. `cpu`: share of one core that the client itself took."""

    samples: tuple[Sample, ...]
    seconds: float
    cpu: float
    users: int | None = None
    rate: float | None = None

    @property
    def late_s(self) -> list[float]:
        """How much later than due each request was sent: the client's own fault."""
        return [s.sent - s.due for s in self.samples]


def closed(client: Client, requests: Iterator[bytes], users: int, count: int, heard: Heard) -> Run:
    """`users` that each ask again as soon as they are answered, `count` requests in all."""
    return asyncio.run(_measured(lambda: _closed(client, requests, users, count, heard), users=users))


def opened(client: Client, requests: Iterator[bytes], arrivals: Sequence[float], heard: Heard) -> Run:
    """One request at each of the times, in seconds from the start, however many are under way."""
    rate = (len(arrivals) - 1) / arrivals[-1] if len(arrivals) > 1 and arrivals[-1] > 0 else None
    return asyncio.run(_measured(lambda: _opened(client, requests, arrivals, heard), rate=rate))


async def _measured(load: Callable[[], object], users: int | None = None, rate: float | None = None) -> Run:
    gc.collect()
    gc.freeze()
    gc.disable()  # a pause of the client's would look like one of the server's
    start, cpu = perf_counter(), process_time()
    try:
        samples = await load()  # type: ignore[misc]
    finally:
        gc.enable()
        gc.unfreeze()
    seconds = perf_counter() - start
    return Run(tuple(samples), seconds, (process_time() - cpu) / seconds, users, rate)


async def _closed(client: Client, requests: Iterator[bytes], users: int, count: int, heard: Heard) -> list[Sample]:
    made: list[Sample] = []
    left = count

    async def user() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            sample = await client.ask(next(requests))
            made.append(sample)
            heard(sample)

    await asyncio.gather(*(user() for _ in range(min(users, count))))
    client.close()
    return made


async def _opened(client: Client, requests: Iterator[bytes], arrivals: Sequence[float], heard: Heard) -> list[Sample]:
    made: list[Sample] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(request: bytes, due: float) -> None:
        sample = await client.ask(request, due)
        made.append(sample)
        heard(sample)

    start = perf_counter() + 0.05
    for at in arrivals:
        request, due = next(requests), start + at
        wait = due - perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.ensure_future(one(request, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(set(tasks))
    client.close()
    return made
