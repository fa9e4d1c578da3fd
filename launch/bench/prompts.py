"""What is asked: prompts of drawn lengths, on documents that several share, or cut from real text.

Token counts are the engine's own: a first request says how many bytes a token of such text has.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log
from statistics import NormalDist

PATHS = {
    "generate": "/v1/completions",
    "chat": "/v1/chat/completions",
    "embed": "/v1/embeddings",
    "rerank": "/v1/rerank",
}
TEXT = """the of and to in is that it was for on are as with his they at be this from have or by one had not but what
all were when we there can an your which their said if do will each about how up out them then she many some
so these would other into has more her two like him see time could no make than first been its who now people
my made over did down only way find use may water long little very after words called just where most know
get through back much before go good new write our used me man too any day same right look think also around
another came come work three word must because does part even place well such here take why things help put
years different away again off went old number great tell men say small every found still between name should
home big give air line set own under read last never us left end along while might next sound below saw
something thought both few those always looked show"""
WORDS = TEXT.split()


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens. `p99` None: all alike. `shared`: part of each prompt that is the beginning of one of `documents`, the
    n-th 1/n as often as the first; prompts on one document are of like lengths, as the simulation's are."""

    input_mean: float
    input_p99: float | None = None
    output_mean: float = 128.0
    output_p99: float | None = None
    shared: float = 0.0
    documents: int = 20
    longest: int | None = None  # prompt and answer together


class Prompts:
    """Endless requests, the same for equal seeds. `text`: where prompts are cut from; made-up words without it."""

    def __init__(
        self, model: str, task: str, shape: Shape, seed: int, *, bytes_a_token: float = 4.0, text: str | None = None,
        stream: bool = True,
    ) -> None:  # fmt: skip
        self.path = PATHS[task]
        self._model, self._task, self._shape = model, task, shape
        self._chance = random.Random(seed)  # noqa: S311
        self._bytes_a_token = bytes_a_token
        self._text = text
        self._stream = stream
        self._seed = seed
        self._by_length = random.Random(seed).sample(range(shape.documents), shape.documents)  # noqa: S311
        self._ends = list(accumulate(1 / (1 + document) for document in self._by_length))

    def __iter__(self) -> Iterator[bytes]:
        while True:
            place = self._chance.random()  # of its length among all
            tokens, answer = self._lengths(place)
            yield self.body(self._prompt(tokens, place), answer)

    def sized(self, lengths: Sequence[tuple[int, int, Sequence[int]]]) -> Iterator[bytes]:
        """For a trace: tokens of prompt and answer, and numbers of the blocks of 512 that it begins with."""
        for tokens, answer, blocks in lengths:
            size = round(512 * self._bytes_a_token)
            begun = "".join(self._words(size, f"block {number} ") for number in blocks[: tokens // 512])
            rest = max(8, round(tokens * self._bytes_a_token) - len(begun))
            yield self.body(begun + self._alone(rest), answer)

    def body(self, prompt: str, answer: int) -> bytes:
        """One request. Answers have the length asked for, whatever the model would like to end on."""
        if self._task == "embed":
            return json.dumps({"model": self._model, "input": prompt}).encode()
        if self._task == "rerank":
            half = len(prompt) // 10
            parts = [prompt[i : i + half] for i in range(half, len(prompt), max(1, half))]
            return json.dumps({"model": self._model, "query": prompt[:half], "documents": parts}).encode()
        asked = {
            "model": self._model,
            "max_tokens": answer,
            "ignore_eos": True,
            "temperature": 0,
            "stream": self._stream,
        }
        if self._stream:
            asked["stream_options"] = {"include_usage": True}
        if self._task == "chat":
            return json.dumps({**asked, "messages": [{"role": "user", "content": prompt}]}).encode()
        return json.dumps({**asked, "prompt": prompt}).encode()

    def _lengths(self, place: float) -> tuple[int, int]:
        shape = self._shape
        tokens = _drawn(place, shape.input_mean, shape.input_p99)
        answer = _drawn(self._chance.random(), shape.output_mean, shape.output_p99)
        if shape.longest is not None:
            answer = min(answer, shape.longest - 1)
            tokens = min(tokens, shape.longest - answer)
        return max(1, tokens), max(1, answer)

    def _prompt(self, tokens: int, place: float) -> str:
        size = max(1, round(tokens * self._bytes_a_token))
        shared = round(size * self._shape.shared)
        if not shared:
            return self._alone(size)
        document = self._by_length[bisect_left(self._ends, place * self._ends[-1])]
        return self._words(shared, f"document {document} ") + self._alone(max(8, size - shared))

    def _alone(self, size: int) -> str:
        """Text that no other request begins with."""
        mark = f"{self._chance.getrandbits(48):012x} "
        if self._text is not None:
            start = self._chance.randrange(max(1, len(self._text) - size))
            return (mark + self._text[start : start + size])[:size]
        return self._words(size, mark)

    def _words(self, size: int, name: str) -> str:
        """Always the same for one name."""
        chance = random.Random(f"{self._seed} {name}")  # noqa: S311
        words = chance.choices(WORDS, k=size // 4 + 1)
        return (name + " ".join(words))[:size].ljust(size, "e")


def _drawn(place: float, mean: float, p99: float | None) -> int:
    """The length below which that part of all are. Log-normal through mean and p99; without a tail all are alike."""
    if p99 is None or p99 <= mean:
        return round(mean)
    z = 2.326
    root = z * z - 2 * log(p99 / mean)
    sigma = min(2.5, z - root**0.5 if root > 0 else z)
    deviations = NormalDist().inv_cdf(min(max(place, 1e-9), 1 - 1e-9))
    return max(1, round(exp(log(mean) - sigma * sigma / 2 + sigma * deviations)))
