"""What classify.lua should find in a body, by Python's JSON parser; and bodies to try it on."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass
from typing import Any

MAX_TEXT_DEPTH = 4


@dataclass(frozen=True)
class Found:
    model: str
    prefix: str | None  # hash, None without any prompt text
    tokens: int


class Number(str):
    """A number as it was written."""


def classify(body: bytes, window: int = 4096) -> Found | None:
    """None: no JSON object, or no model that is a string."""
    try:
        found = json.loads(body.decode(), parse_int=Number, parse_float=Number, parse_constant=lambda _: None)
    except ValueError:
        return None
    if not isinstance(found, dict) or type(found.get("model")) is not str:
        return None
    text = prompt(found)[:window]
    return Found(found["model"], hashed(text) if text else None, tokens(body))


def prompt(body: dict[str, Any]) -> bytes:
    first = [name for name in ("system", "instructions") if name in body][:1]
    main = [name for name in ("messages", "prompt", "input") if name in body][:1]
    return b"".join(text(body[name], 0) for name in first + main)


def text(value: Any, depth: int) -> bytes:
    if depth > MAX_TEXT_DEPTH:
        return b""
    if isinstance(value, Number):
        return f"{value},".encode()
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if isinstance(value, dict):
        name = "text" if "text" in value else "content"
        return text(value[name], depth + 1) if name in value else b""
    if isinstance(value, list):
        return b"".join(text(item, depth + 1) for item in (to_first_user(value) if depth == 0 else value))
    return b""


def to_first_user(messages: list[Any]) -> list[Any]:
    is_user = [type(m.get("role")) is str and m["role"] == "user" if isinstance(m, dict) else False for m in messages]
    return messages[: is_user.index(True) + 1] if True in is_user else messages


def hashed(data: bytes) -> str:
    """FNV-1a over words of four bytes, each folded, then over the bytes that are left."""
    h, full = 0x811C9DC5, len(data) - len(data) % 4
    for at in range(0, full, 4):
        h = (h ^ int.from_bytes(data[at : at + 4], "little")) * 0x01000193 & 0xFFFFFFFF
        h ^= h >> 15
    for byte in data[full:]:
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{h:08x}"


def tokens(body: bytes) -> int:
    written = body.decode()
    wide = sum(ord(c) >= 0x800 for c in written)
    strings = re.findall(r'"(?:[^"\\]|\\.)*"', written, re.DOTALL)
    escapes = sum(e.startswith("\\u") for e in re.findall(r"\\u[0-9a-fA-F]{4}|\\.", written))
    urls = [s for s in strings if s.startswith('"data:')]
    narrow = len(body) - 3 * wide - 6 * escapes - sum(len(u.encode()) for u in urls)
    return math.floor(narrow / 4 + 0.7 * (wide + escapes) + 1000 * len(urls))


LETTERS = 'abc {}[]",:\\\n\t/éß統一🚀\x7f\ud83d'
NAMES = ("model", "messages", "prompt", "input", "system", "instructions", "role", "content", "text", "x", "modeL", "")


class Bodies:
    """Valid and broken requests, the same ones for the same seed."""

    def __init__(self, seed: int, models: tuple[str, ...]) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - for repeatable tests
        self.models = models

    def valid(self) -> bytes:
        members = [
            ("model", self.model()),
            *((self.rng.choice(NAMES), self.value(0)) for _ in range(self.rng.randrange(4))),
        ]
        if self.rng.random() < 0.7:
            members.append(
                (self.rng.choice(("messages", "input")), [self.message() for _ in range(self.rng.randrange(4))])
            )
        if self.rng.random() < 0.3:
            members.append((self.rng.choice(("prompt", "system", "instructions")), self.string(3000)))
        self.rng.shuffle(members)
        return (self.space() + self.write(members, is_object=True) + self.space()).encode()

    def broken(self) -> bytes:
        """A valid body with a few bytes lost, doubled or changed: still valid now and then."""
        body = bytearray(self.valid())
        for _ in range(self.rng.randrange(1, 4)):
            at = self.rng.randrange(len(body))
            body[at : at + self.rng.randrange(2)] = self.rng.choice(
                (b"", b'"', b"\\", b"{", b"]", b",", b"0", b" ", b"\xff", b"\x00")
            )
        return bytes(body)

    def model(self) -> Any:
        return self.rng.choice(self.models) if self.rng.random() < 0.9 else self.value(3)

    def message(self) -> Any:
        parts = [[("type", "text"), ("text", self.string(600))], [("url", "data:" + "A" * self.rng.randrange(2000))]]
        content = self.rng.choice((self.string(2000), [_Object(p) for p in parts], None, []))
        members = [("role", self.rng.choice(("system", "user", "assistant", 7))), ("content", content)]
        self.rng.shuffle(members)
        return _Object(members)

    def value(self, depth: int) -> Any:
        kind = self.rng.randrange(8 if depth < 3 else 5)
        if kind < 2:
            return self.string(60)
        if kind < 5:
            return self.rng.choice((None, True, False, 0, -1, 3.5, 1e-9, 10**20))
        if kind < 6:
            return [self.value(depth + 1) for _ in range(self.rng.randrange(4))]
        return _Object([(self.rng.choice(NAMES), self.value(depth + 1)) for _ in range(self.rng.randrange(4))])

    def string(self, longest: int) -> str:
        length = self.rng.randrange(longest) if self.rng.random() < 0.3 else self.rng.randrange(12)
        return "".join(self.rng.choices(LETTERS, k=length))

    def space(self) -> str:
        return "".join(self.rng.choices(" \n\t\r", k=self.rng.choice((0, 0, 0, 1, 3))))

    def write(self, value: Any, *, is_object: bool = False) -> str:
        if isinstance(value, _Object) or is_object:
            items = [f"{self.quoted(k)}{self.space()}:{self.space()}{self.write(v)}" for k, v in value]
            return "{" + self.joined(items) + "}"
        if isinstance(value, list):
            return "[" + self.joined([self.write(item) for item in value]) + "]"
        return self.quoted(value) if isinstance(value, str) else json.dumps(value)

    def joined(self, items: list[str]) -> str:
        return self.space() + f"{self.space()},{self.space()}".join(items) + self.space()

    def quoted(self, value: str) -> str:
        return '"' + "".join(self.letter(c) for c in value) + '"'

    def letter(self, c: str) -> str:
        must = c in '"\\' or c < " " or "\ud800" <= c <= "\udfff"
        if must or self.rng.random() < 0.05:
            short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "/": "\\/"}.get(c)
            return (
                short
                if short and self.rng.random() < 0.5
                else json.dumps(c)[1:-1]
                if ord(c) > 127
                else f"\\u{ord(c):04x}"
            )
        return c


class _Object(list[tuple[str, Any]]):
    """Members in order; names may come twice."""
