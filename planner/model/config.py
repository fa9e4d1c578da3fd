"""config.json as typed facts. Whatever is missing or not what it should be is one ModelError that names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmfleet.planner.errors import ModelError

LARGEST = 1 << 31
MISSING = object()


class Config:
    """A section of config.json. `where` names the file and section in messages."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        if not isinstance(raw, Mapping):
            raise ModelError(f"{where}: an object with keys and values is needed, not {_say(raw)}")
        self.raw = raw
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def integer(self, *keys: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """The first of these keys that is set."""
        key, value = self._find(keys, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, f"a whole number of {least} or more")
        if not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, *keys: str, default: float | None = None) -> float:
        key, value = self._find(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise self._wrong(key, value, "a number")
        return float(value)

    def flag(self, *keys: str, default: bool = False) -> bool:
        key, value = self._find(keys, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, *keys: str, default: str | None = None) -> str:
        key, value = self._find(keys, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def section(self, key: str) -> Config:
        """An object inside; an empty one where it is left out."""
        return Config(self.raw.get(key) or {}, f"{self.where}: {key}")

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where it is left out."""
        values = self.raw.get(key)
        if values is None:
            return ()
        if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
            raise self._wrong(key, values, "a list of whole numbers")
        return tuple(values)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where it is left out."""
        values = self.raw.get(key)
        if values is None:
            return ()
        if not isinstance(values, list) or any(not isinstance(v, str) for v in values):
            raise self._wrong(key, values, "a list of strings")
        return tuple(values)

    def filled(self, **defaults: Any) -> Config:
        """The same section with class defaults for what is left out."""
        given = {k: v for k, v in self.raw.items() if v is not None}
        return Config({**defaults, **given}, self.where)

    def _find(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for key in keys:
            if self.raw.get(key) is not None:
                return key, self.raw[key]
        if default is None:
            raise ModelError(
                f"{self.where}: {' or '.join(keys)} is missing", hint="Give the model's complete config.json."
            )
        return keys[0], default

    def _wrong(self, key: str, value: Any, need: str) -> ModelError:
        return ModelError(f"{self.where}: {key} is {_say(value)}; {need} is needed")


def _say(value: Any) -> str:
    text = f'"{value}", a string' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
