"""YAML text as plain values that remember where they stood.

Scalars stay text as written (versions such as 0.10, names such as "on"); only null is not text. What a value means is
decided by the key it belongs to. Built from the parser's events, so that nesting and aliases can be bounded before
anything is built: the C composer of PyYAML overflows its stack on deep input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from llmfleet.planner.errors import InventoryError, Problem
from llmfleet.planner.inventory.shapes import shown

MOST_BYTES = 5_000_000
MOST_VALUES = 300_000
MOST_ITEMS = 20_000  # in one list or mapping
DEEPEST = 40

Loc = tuple[str | int, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is 20 times faster, where PyYAML has it
MERGE = "<<"
_NULLS = {"", "~", "null", "Null", "NULL"}
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True, eq=False)
class Located:
    """One value. `value` is text, None, a list or a dict of Located; `keys` says where each key of a dict stands."""

    line: int
    column: int
    value: str | list[Located] | dict[str, Located] | None = None
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1  # values below it and itself, aliases counted as often as they are used
    depth: int = 1

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def place(self, loc: Loc, *, of_key: bool = False) -> tuple[int, int]:
        """Line and column of the value at `loc`, or of its key; of the nearest value around it where it is missing."""
        here, key_place = self, None
        for part in loc:
            below = here._child(part)
            if below is None:
                return here.line, here.column
            key_place = here.keys.get(str(part))
            here = below
        return key_place if of_key and key_place else (here.line, here.column)

    def _child(self, part: str | int) -> Located | None:
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None

    def add(self, child: Located) -> None:
        self.size += child.size
        self.depth = max(self.depth, child.depth + 1)


def read(text: str | bytes, file: str) -> Located:
    """The only document of the text. Raises InventoryError with all that is wrong with it as YAML."""
    clean = _decoded(text, file)
    builder = _Builder(file, yaml.parse(clean, Loader=_LOADER))
    try:
        root = builder.document()
    except yaml.MarkedYAMLError as error:
        raise InventoryError([*builder.problems, _syntax_problem(error, clean, file)]) from None
    except yaml.YAMLError as error:
        raise InventoryError([Problem(file, 0, 0, "", f"is not valid YAML: {shown(error, 200)}.")]) from None
    if builder.problems:
        raise InventoryError(builder.problems)
    return root


def _decoded(raw: str | bytes, file: str) -> str:
    if len(raw) > MOST_BYTES:
        raise _whole(file, f"is longer than the {MOST_BYTES:,} bytes that an inventory may have.")
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        hint = "Save the file as UTF-8."
        raise InventoryError([Problem(file, line, 1, "", "is not UTF-8 text here.", hint)]) from None
    text = text.removeprefix("\ufeff")
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        problem = Problem(file, line, column, "", f"has the character U+{ord(bad[0]):04X}, which no text file has.")
        raise InventoryError([problem])
    return text


def _whole(file: str, message: str, hint: str = "") -> InventoryError:
    return InventoryError([Problem(file, 0, 0, "", message, hint)])


class _Builder:
    """Builds the tree from events. `problems` collects what does not stop the reading."""

    def __init__(self, file: str, events: Iterator[yaml.Event]) -> None:
        self.file = file
        self.events = events
        self.anchors: dict[str, Located] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def document(self) -> Located:
        next(self.events)  # start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise _whole(self.file, "is empty.", "Start from inventory.example.yaml, or run: llmfleet init HOST…")
        root = self._value(next(self.events), depth=1)
        next(self.events)  # end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._problem(after, 'a second document starts here ("---"); an inventory is one document.')
        return root

    def _value(self, event: yaml.Event, depth: int) -> Located:
        if depth > DEEPEST:
            raise self._stop(event, f"nested deeper than {DEEPEST} levels.")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        here = Located(*_place(event))
        if isinstance(event, yaml.ScalarEvent):
            plain_null = not event.style and event.value in _NULLS
            here.value = None if plain_null else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            self._items(here, depth)
        else:
            self._pairs(here, depth)
        return self._finished(here, event)

    def _finished(self, here: Located, event: yaml.Event) -> Located:
        self.count += 1
        if max(self.count, here.size) > MOST_VALUES:
            raise self._stop(event, f"more than {MOST_VALUES:,} values.", "Ranges such as n[001-500] make it shorter.")
        if here.depth > DEEPEST:
            raise self._stop(event, f"nested deeper than {DEEPEST} levels.")
        if getattr(event, "tag", None):
            self._problem(event, f"tags such as {shown(event.tag)} mean nothing here.", "Leave it out.")  # type: ignore[attr-defined]
        if anchor := getattr(event, "anchor", None):
            self.anchors[anchor] = here
        return here

    def _alias(self, event: yaml.AliasEvent) -> Located:
        meant = self.anchors.get(event.anchor or "")
        if meant is None:
            raise self._stop(event, f"the alias *{event.anchor} has no anchor &{event.anchor} before it.")
        return meant

    def _items(self, here: Located, depth: int) -> None:
        items: list[Located] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
            here.add(items[-1])
            self._bounded(len(items), event)
        here.value = items

    def _pairs(self, here: Located, depth: int) -> None:
        pairs: dict[str, Located] = {}
        merged: list[tuple[yaml.Event, Located]] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._value(event, depth + 1).value
            value = self._value(next(self.events), depth + 1)
            here.add(value)
            self._bounded(len(pairs), event)
            if not isinstance(key, str):
                self._problem(
                    event, "keys are words, such as name or gpus.", 'A value that starts with "{" or "[" needs quotes.'
                )
            elif key == MERGE:
                merged.append((event, value))
            elif key in pairs:
                self._problem(
                    event, f"the key {shown(key)} stands here a second time; first on line {here.keys[key][0]}."
                )
            else:
                pairs[key] = value
                here.keys[key] = _place(event)
        for event, value in merged:
            self._merge(event, value, here, pairs)
        here.value = pairs

    def _merge(self, event: yaml.Event, value: Located, here: Located, pairs: dict[str, Located]) -> None:
        """`<<: *other`, as YAML 1.1 has it: the other's keys, where there are none of the same name."""
        for source in value.value if isinstance(value.value, list) else [value]:
            if not isinstance(source.value, dict):
                self._problem(event, "<< takes over the keys of another mapping, by its alias: <<: *name.")
                continue
            for key, taken in source.value.items():
                pairs.setdefault(key, taken)
                here.keys.setdefault(key, source.keys[key])

    def _bounded(self, count: int, event: yaml.Event) -> None:
        if count > MOST_ITEMS:
            raise self._stop(event, f"more than {MOST_ITEMS:,} items in one place.")

    def _problem(self, event: yaml.Event, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, *_place(event), "", message, hint))

    def _stop(self, event: yaml.Event, message: str, hint: str = "") -> InventoryError:
        self._problem(event, message, hint)
        return InventoryError(self.problems)


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    around = f" ({error.context})" if error.context else ""
    row = text.split("\n")[line - 1] if 0 < line <= text.count("\n") + 1 else ""
    return Problem(file, line, column, "", f"is not valid YAML: {error.problem}{around}.", _syntax_hint(row, column))


def _syntax_hint(row: str, column: int) -> str:
    if "\t" in row[:column]:
        return "There is a tab; YAML indents with spaces."
    if re.search(r"\{.*:\s*[A-Za-z0-9.-]+\[[0-9]", row):
        return 'Inside { } a range needs quotes: "a800-[0-1]".'
    if re.search(r"^\s*(- )?\[", row):
        return 'A value that starts with "[" needs quotes.'
    if row.count(": ") > 1:
        return 'A value that holds ": " needs quotes; each key stands on a line of its own.'
    return ""
