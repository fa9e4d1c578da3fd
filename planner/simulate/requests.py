"""Requests to simulate: drawn from what the inventory says of the traffic, or a trace's own. Equal seeds, equal ones.

`Stream` is one service's requests; `merged` puts those of all services in the order of their arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.lengths import length_model
from llmfleet.planner.inventory.asked import Lengths
from llmfleet.planner.simulate.arrays import (
    ARRIVAL,
    R_ANSWER,
    R_ENGINE,
    R_KIND,
    R_MEMBER,
    R_PROMPT,
    R_SEGMENTS,
    R_SEGMENTS_END,
    ROW,
    SPOT,
    TIMES,
)
from llmfleet.planner.traffic.traces import BLOCK, Traced

Array = NDArray[Any]
DOCUMENTS = 20  # that prompts share their beginnings with, popular as 1/rank
BYTES_A_TOKEN = 4
GRAIN = 256  # tokens: shared beginnings are equal in steps of so many


class Merged(NamedTuple):
    """Columns of the simulation, see arrays.py."""

    request: Array
    times: Array
    segments: Array
    segment: Array


@dataclass(frozen=True, slots=True)
class Stream:
    """`segments` of all prompts, those of request i in `[first[i], first[i + 1])`; `tokens` of each segment number.

    `key`: what the router tells prefixes apart by. Arrival in seconds from the start, lengths in tokens.
    """

    service: str
    arrival: Array
    prompt: Array
    answer: Array
    key: Array
    first: Array
    segments: Array
    tokens: Array
    start: Array


def drawn(
    demand: Demand, count: int, rng: np.random.Generator, *, load: float = 1.0, documents: int = DOCUMENTS
) -> Stream:
    """`count` requests at random times, `load` times the service's peak rate. Lengths are log-normal, as planned."""
    service = demand.service
    arrival = np.cumsum(rng.exponential(1 / (demand.rate * load), count))
    prompt = _prompts(demand, count, rng)
    answer = _answers(demand, prompt, rng)
    traffic = service.traffic
    shared = traffic.shared_prefix if traffic and service.task == "generate" else 0.0
    return with_documents(service.name, arrival, prompt, answer, shared, documents, rng)


def with_documents(
    service: str, arrival: Array, prompt: Array, answer: Array, shared: float, documents: int, rng: np.random.Generator
) -> Stream:
    """A part `shared` of each prompt is the beginning of one of the documents; what follows is the request's alone."""
    count = len(arrival)
    document = _documents(prompt, documents, rng)
    steps = np.round(prompt * shared / GRAIN).astype(np.int64)
    steps = np.minimum(steps, prompt // GRAIN)
    most = int(steps.max(initial=0))
    first = np.concatenate([[0], np.cumsum(steps)])
    within = np.arange(first[-1]) - np.repeat(first[:-1], steps)
    segments = np.repeat(document, steps) * most + within
    alone = documents + np.arange(count)
    return Stream(
        service, arrival, prompt, answer, np.where(steps > 0, document, alone), first, segments,
        tokens=np.full(documents * most, GRAIN), start=np.tile(np.arange(most) * GRAIN, documents),
    )  # fmt: skip


def _documents(prompt: Array, documents: int, rng: np.random.Generator) -> Array:
    """Of each prompt, the n-th 1/n as often as the first.

    Prompts on one document are of like lengths, as the document is much of them: a long one is asked about in long
    prompts, and short ones do not begin with its first pages.
    """
    popularity = 1 / np.arange(1, documents + 1)
    by_length = rng.permutation(documents)
    ends = np.cumsum(popularity[by_length]) / popularity.sum()
    place = np.argsort(np.argsort(prompt + rng.random(len(prompt))))  # those alike by chance
    return by_length[np.minimum(np.searchsorted(ends, (place + 0.5) / len(prompt)), documents - 1)]


def _prompts(demand: Demand, count: int, rng: np.random.Generator) -> Array:
    """Cut where the plan cuts them: no longer than what the service takes."""
    traffic = demand.service.traffic
    lengths = length_model(traffic.input if traffic else Lengths(mean=1000))
    long = demand.service.long_context
    longest = demand.service.context or demand.model.max_context
    if demand.service.task == "generate":
        longest = min(longest, long.max or longest) if long else longest
    drawn = rng.lognormal(lengths.mu, lengths.sigma, count)
    if demand.service.task == "generate":
        most = longest - _mean_answer(demand)
        for _ in range(20):
            over = drawn > most
            if not over.any():
                break
            drawn[over] = rng.lognormal(lengths.mu, lengths.sigma, int(over.sum()))
        drawn = np.minimum(drawn, most)
    return np.maximum(1, np.round(drawn)).astype(np.int64)


def _answers(demand: Demand, prompt: Array, rng: np.random.Generator) -> Array:
    if demand.service.task != "generate":
        return np.ones(len(prompt), dtype=np.int64)
    traffic = demand.service.traffic
    lengths = length_model(traffic.output if traffic else Lengths(mean=200))
    drawn = rng.lognormal(lengths.mu, lengths.sigma, len(prompt))
    return np.maximum(1, np.round(drawn)).astype(np.int64)


def _mean_answer(demand: Demand) -> int:
    traffic = demand.service.traffic
    return int(traffic.output.mean) if traffic else 200


def merged(streams: Sequence[Stream], kinds: dict[tuple[str, bool], int], over: dict[str, int]) -> Merged:
    """`kinds`: row of the router's tables by service and whether the prompt is long; `over`: more tokens than these."""
    segment_base = np.cumsum([0, *(len(s.tokens) for s in streams)])
    counts = np.concatenate([np.diff(s.first) for s in streams])
    order = np.argsort(np.concatenate([s.arrival for s in streams]), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    segments = np.concatenate([s.segments + base for s, base in zip(streams, segment_base, strict=False)])
    first = np.concatenate([[0], np.cumsum(counts[order])])
    pick = np.repeat(starts[order] - first[:-1], counts[order]) + np.arange(first[-1])

    def together(parts: Sequence[Array]) -> Array:
        return np.concatenate(parts)[order]

    request = np.zeros((len(order), ROW), dtype=np.int64)
    request[:, [R_ENGINE, R_MEMBER]] = -1
    request[:, R_KIND] = together([_kinds(s, kinds, over) for s in streams])
    request[:, R_PROMPT] = together([s.prompt for s in streams])
    request[:, R_ANSWER] = together([s.answer for s in streams])
    request[:, R_SEGMENTS], request[:, R_SEGMENTS_END] = first[:-1], first[1:]
    times = np.zeros((len(order), TIMES))
    times[:, ARRIVAL] = together([s.arrival for s in streams])
    times[:, SPOT] = together([spots(s.key, i) for i, s in enumerate(streams)])
    segment = np.stack([np.concatenate([s.tokens for s in streams]), np.concatenate([s.start for s in streams])], 1)
    return Merged(request, times, segments[pick].astype(np.int64), segment.astype(np.int64))


def _kinds(stream: Stream, kinds: dict[tuple[str, bool], int], over: dict[str, int]) -> Array:
    long = stream.prompt > over.get(stream.service, 1 << 60)
    usual = kinds[stream.service, False]
    return np.where(long, kinds.get((stream.service, True), usual), usual)


def spots(keys: Array, salt: int) -> Array:
    """A place on the ring, 0..1, for each key: splitmix64."""
    with np.errstate(over="ignore"):
        x = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(salt + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def replayed(
    demand: Demand, trace: Sequence[Traced], rng: np.random.Generator, *, speed: float = 1.0,
    documents: int = DOCUMENTS, window: int | None = None,
) -> Stream:  # fmt: skip
    """A trace's own arrivals, `speed` times as fast, lengths and shared blocks. Without block ids: documents, as drawn.

    `window`: tokens of a prompt's beginning that the router tells prefixes apart by; the service's own where None.
    """
    arrival = np.array([row.at for row in trace]) / speed
    prompt = np.array([row.prompt for row in trace], dtype=np.int64)
    answer = np.array([row.answer if demand.service.task == "generate" else 1 for row in trace], dtype=np.int64)
    if not any(row.blocks for row in trace) or demand.service.task != "generate":
        traffic = demand.service.traffic
        shared = traffic.shared_prefix if traffic and demand.service.task == "generate" else 0.0
        return with_documents(demand.service.name, arrival, prompt, answer, shared, documents, rng)
    whole = [row.blocks[: row.prompt // BLOCK] for row in trace]
    ids, counts = np.unique(np.array([b for blocks in whole for b in blocks], dtype=np.int64), return_counts=True)
    shared_ids = {int(b): i for i, b in enumerate(ids[counts > 1])}
    segments: list[int] = []
    first, start = [0], np.zeros(len(shared_ids), dtype=np.int64)
    for blocks in whole:
        for place, block in enumerate(blocks):
            number = shared_ids.get(block)
            if number is None:
                break  # behind what only it has, nothing is shared
            start[number] = place * BLOCK
            segments.append(number)
        first.append(len(segments))
    place = ((window or demand.service.prefix_bytes // BYTES_A_TOKEN) - 1) // BLOCK
    keys = [blocks[min(place, len(blocks) - 1)] if blocks else -1 - i for i, blocks in enumerate(whole)]
    return Stream(
        demand.service.name, arrival, prompt, answer, np.array(keys, dtype=np.int64), np.array(first, dtype=np.int64),
        np.array(segments, dtype=np.int64), np.full(len(shared_ids), BLOCK), start,
    )  # fmt: skip
